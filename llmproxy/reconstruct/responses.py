"""The Responses API: its request, and the machine that reads its response."""

import re
from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.error_message import error_message, is_error
from llmproxy.reconstruct.items import read_items
from llmproxy.reconstruct.json_values import Notes, mapping, nonempty, sequence
from llmproxy.reconstruct.machine import ResponseReading
from llmproxy.reconstruct.response_items import ResponseItems
from llmproxy.reconstruct.responses_request import read_request
from llmproxy.reconstruct.turn import Output
from llmproxy.reconstruct.usage import read_usage

__all__ = ["Machine", "read_request"]

_LAST_STATUSES = frozenset({"completed", "incomplete", "failed", "cancelled"})

# Events that only tell what the items say better when they are done.
_PROGRESS = frozenset(
    {
        "response.content_part.added",
        "response.content_part.done",
        "response.reasoning_part.added",
        "response.reasoning_part.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "response.output_text.annotation.added",
        "keepalive",
        "ping",
    }
)
_PROGRESS_PREFIXES = (
    "response.apply_patch_call_",
    "response.audio.",
    "response.compaction.",
    "response.mcp_list_tools.",
    "response.output_audio.",
    "response.shell_call_",
)
# `response.web_search_call.searching` and the like, of any tool that the provider runs.
_CALL_PROGRESS = re.compile(r"response\.\w+_call\.")


class Machine:
    """Reads one response. The finished items of the stream make the answer; where it was cut, the deltas do."""

    def __init__(self) -> None:
        self._notes = Notes()
        self._items = ResponseItems()
        self._response: dict[str, Any] = {}
        self._error: str | None = None
        self._finished = False
        self._is_stream = False

    def event(self, name: str, data: Any) -> bool:
        self._is_stream = True
        event = mapping(data, "event", self._notes)
        if not isinstance(data, dict):
            return False
        kind = event.get("type")
        kind = kind if isinstance(kind, str) and kind else name
        carried = self._items.text(kind, event)
        if carried is not None:
            return carried
        if kind == "response.output_item.added":
            return self._items.added(event)
        if kind == "response.output_item.done":
            return self._items.finished(event)
        if kind == "error" or (event.get("error") and "response" not in event):
            self._error = error_message(event)
            self._finished = True
        elif isinstance(event.get("response"), dict):
            return self._snapshot(event)
        elif kind in _PROGRESS or kind.startswith(_PROGRESS_PREFIXES) or _CALL_PROGRESS.match(kind):
            pass
        elif is_error(event, "output"):
            self._error = error_message(event)
            self._finished = True
        else:
            self._notes.add(f"unknown event: {kind}")
        return False

    def done(self) -> None:
        self._finished = True  # only OpenRouter sends a [DONE] here, after the last event

    def whole(self, body: Any) -> None:
        self._response = dict(mapping(body, "response body", self._notes))
        if is_error(self._response, "output"):
            self._error = error_message(self._response)
        self._finished = True

    def finish(self) -> ResponseReading:
        response = dict(self._response)
        items = self._output()
        if self._is_stream and (response or items):
            response["output"] = items
        messages = read_items(items, self._notes, default_role="assistant")
        status = response.get("status")
        # Before the end, or where an error is the end, the last status that was sent is not how it ended.
        reason = nonempty(status, "status", self._notes) if self._finished and status != "in_progress" else None
        answered = messages or (response and not self._error)
        return ResponseReading(
            outputs=(Output(0, messages, reason),) if answered else (),
            resolved_model=nonempty(response.get("model"), "model", self._notes),
            usage=read_usage(response.get("usage"), self._notes),
            response_json=response or None,
            response_id=nonempty(response.get("id"), "id", self._notes),
            error=self._error,
            finished=self._finished,
            notes=tuple(self._notes),
        )

    def _snapshot(self, event: Mapping[str, Any]) -> bool:
        """An event that carries the response object as it stands."""
        response: dict[str, Any] = event["response"]
        # What stands beside the object (GitHub Copilot's `copilot_usage`) belongs to the answer too.
        beside = {k: v for k, v in event.items() if k not in ("type", "sequence_number", "response")}
        self._response = {**self._response, **response, **beside}
        if response.get("error"):
            self._error = error_message(response)
        status = response.get("status")
        kind = str(event.get("type")).removeprefix("response.")
        if kind in _LAST_STATUSES or (isinstance(status, str) and status in _LAST_STATUSES):
            self._finished = True
        return bool(response.get("output"))

    def _output(self) -> list[Any]:
        """The items: of the last response object, as unstreamed, unless it holds fewer than the stream did.

        ChatGPT's Codex backend ends with an empty output.
        """
        final = sequence(self._response.get("output"), "output", self._notes)
        streamed = self._items.bodies()
        return final if len(final) >= len(streamed) else streamed
