"""The Messages API of Anthropic: its request, and the machine that reads its response."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message

from llmproxy.reconstruct.anthropic_blocks import Blocks
from llmproxy.reconstruct.anthropic_request import read_request
from llmproxy.reconstruct.error_message import error_message, is_error
from llmproxy.reconstruct.json_values import Notes, mapping, nonempty
from llmproxy.reconstruct.machine import ResponseReading
from llmproxy.reconstruct.text import parse_object
from llmproxy.reconstruct.turn import Output
from llmproxy.reconstruct.usage import read_usage

__all__ = ["Machine", "read_request"]

# A delta's type -> the block it belongs to, and the field of the delta and of the block.
_TEXT_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
    "compaction_delta": ("compaction", "content"),
}
_SAYS_NOTHING = ("signature_delta",)
# Blocks that come whole with their start.
_OPENING_TEXT = ("text", "thinking", "content", "data")


class Machine:
    """Reads one response. A streamed message is put together as it would have come unstreamed, then read as such."""

    def __init__(self) -> None:
        self._notes = Notes()
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._highest = -1  # of the blocks' places
        self._places: dict[int, int] = {}  # where the block is that was last begun with an index
        self._highest_begun = 0  # of these indexes
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self._citations: dict[int, list[Any]] = {}
        self._error: str | None = None
        self._finished = False

    def event(self, name: str, data: Any) -> bool:
        event = mapping(data, "event", self._notes)
        if not isinstance(data, dict):
            return False
        kind = event.get("type")
        kind = kind if isinstance(kind, str) and kind else name
        match kind:
            case "message_start":
                self._merge(mapping(event.get("message"), "message", self._notes))
            case "content_block_start":
                block = dict(mapping(event.get("content_block"), "content_block", self._notes))
                self._begin(_index(event, len(self._blocks)), block)
                return _is_call(block) or any(block.get(field) for field in _OPENING_TEXT)
            case "content_block_delta":
                index = _index(event, self._highest_begun)
                delta = mapping(event.get("delta"), "delta", self._notes)
                return self._delta(self._places.get(index, index), delta)
            case "message_delta":
                rest = {key: value for key, value in event.items() if key not in ("type", "delta")}
                self._merge({**rest, **mapping(event.get("delta"), "delta", self._notes)})
            case "message_stop":
                self._finished = True
            case "ping" | "content_block_stop":
                pass
            case _ if kind == "error" or is_error(event, "content"):
                self._error = error_message(event)
                self._finished = True
            case _:
                self._notes.add(f"unknown event: {kind}")
        return False

    def done(self) -> None:
        self._finished = True  # only OpenRouter sends a [DONE] here, after the last event

    def whole(self, body: Any) -> None:
        message = mapping(body, "response body", self._notes)
        if is_error(message, "content"):
            self._error = error_message(message)
        self._merge(message)
        self._finished = True

    def finish(self) -> ResponseReading:
        message = dict(self._message)
        if self._blocks:
            message["content"] = [self._built(index) for index in sorted(self._blocks)]
        if self._usage:
            message["usage"] = self._usage
        parts = Blocks(self._notes).parts(message.get("content"))
        answered = parts or (message and not self._error)
        messages = (Message("assistant", parts),) if parts else ()
        reason = nonempty(message.get("stop_reason"), "stop_reason", self._notes)
        return ResponseReading(
            outputs=(Output(0, messages, reason),) if answered else (),
            resolved_model=nonempty(message.get("model"), "model", self._notes),
            usage=read_usage(message.get("usage"), self._notes),
            response_json=message or None,
            response_id=nonempty(message.get("id"), "id", self._notes),
            error=self._error,
            finished=self._finished,
            notes=tuple(self._notes),
        )

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        # Servers that translate another API may begin each block with the same index.
        self._places[index] = index if index not in self._blocks else self._highest + 1
        self._highest_begun = max(self._highest_begun, index)
        self._ensure(self._places[index], block)

    def _ensure(self, place: int, block: dict[str, Any]) -> None:
        self._highest = max(self._highest, place)
        self._blocks.setdefault(place, block)

    def _merge(self, fields: Mapping[str, Any]) -> None:
        """What an event says about the message. Its usage is cumulative and may leave out what was said before."""
        usage = mapping(fields.get("usage"), "usage", self._notes)
        self._usage.update({key: value for key, value in usage.items() if value is not None or key not in self._usage})
        for key, value in fields.items():
            if key != "usage" and (value is not None or key not in self._message):
                self._message[key] = value

    def _delta(self, index: int, delta: Mapping[str, Any]) -> bool:
        kind = delta.get("type")
        if kind == "citations_delta":
            self._ensure(index, {"type": "text"})
            self._citations.setdefault(index, []).append(delta.get("citation"))
            return False
        if not isinstance(kind, str) or kind not in _TEXT_DELTAS:
            self._notes.add(f"unknown delta: {kind}")
            return False
        block_type, field = _TEXT_DELTAS[kind]
        self._ensure(index, {"type": block_type})
        if kind == "compaction_delta" and delta.get("encrypted_content"):
            self._blocks[index]["encrypted_content"] = delta["encrypted_content"]
        text = delta.get(field)
        if not isinstance(text, str):
            return False
        self._pieces.setdefault((index, field), []).append(text)
        return bool(text) and kind not in _SAYS_NOTHING

    def _built(self, index: int) -> dict[str, Any]:
        """A block as it would have come unstreamed."""
        block = dict(self._blocks[index])
        for field in ("text", "thinking", "signature", "content"):
            pieces = self._pieces.get((index, field))
            if pieces:
                start = block.get(field)
                block[field] = (start if isinstance(start, str) else "") + "".join(pieces)
        if index in self._citations:
            cited = block.get("citations")
            block["citations"] = [*(cited if isinstance(cited, list) else ()), *self._citations[index]]
        arguments = "".join(self._pieces.get((index, "partial_json"), ()))
        if arguments:
            parsed = parse_object(arguments, self._notes)
            block["input"] = arguments if parsed is None else parsed  # text that was cut stays text
        return block


def _index(event: Mapping[str, Any], default: int) -> int:
    index = event.get("index")
    return index if type(index) is int else default


def _is_call(block: Mapping[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind.endswith(("tool_use", "_tool_result"))
