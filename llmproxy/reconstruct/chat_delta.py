"""A chat completion's message put together from the deltas of its stream."""

from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.attachments import joined_base64
from llmproxy.reconstruct.chat_content import ContentDeltas
from llmproxy.reconstruct.chat_executed_tools import ExecutedToolDeltas
from llmproxy.reconstruct.chat_reasoning import REASONING_FIELDS, ReasoningDetails, reasoning_text
from llmproxy.reconstruct.chat_tool_calls import ToolCallDeltas
from llmproxy.reconstruct.json_values import Notes, mapping, objects, sequence

_TEXTS = (*REASONING_FIELDS, "refusal")


class ChatSaid:
    """One choice's message so far. Its fields keep the order in which they first said something."""

    def __init__(self) -> None:
        self._order: dict[str, None] = {}
        self._texts: dict[str, list[str]] = {field: [] for field in _TEXTS}
        self._content = ContentDeltas()
        self._thinking = ContentDeltas()
        self._executed = ExecutedToolDeltas()
        self._details = ReasoningDetails()
        self._calls = ToolCallDeltas()
        self._function: dict[str, list[str]] = {"name": [], "arguments": []}
        self._audio = _Audio()
        self._rest: dict[str, Any] = {}

    def take(self, chunk: Mapping[str, Any], notes: Notes) -> bool:
        delta = chunk.get("delta")
        if delta is None and not self._order:
            delta = chunk.get("message")  # a server that answers a request for a stream with one whole event
        carried = False
        for field, value in mapping(delta, "delta", notes).items():
            if value is not None and self._take_field(field, value, notes):
                self._order.setdefault(field)
                carried = True
        return carried

    def body(self) -> dict[str, Any]:
        message = {"role": self._rest.get("role", "assistant"), **{field: self._built(field) for field in self._order}}
        rest = {**self._rest, **({"thinking_blocks": self._thinking.body()} if "thinking_blocks" in self._rest else {})}
        return {"message": {**message, **({} if "content" in message else {"content": None}), **rest}}

    def _take_field(self, field: str, value: Any, notes: Notes) -> bool:
        """Returns whether the field said something of the message; what it only knows of is kept beside."""
        if field in _TEXTS:
            text = value if field == "refusal" else reasoning_text(value)
            if not isinstance(text, str):
                notes.add(f"{field} is not a string")
                return False
            self._texts[field].append(text)
            return bool(text)
        match field:
            case "content":
                return self._content.take(value, notes)
            case "thinking_blocks":  # LiteLLM's, beside the same text as `reasoning_content`
                self._thinking.take(sequence(value, field, notes), notes)
                self._rest[field] = self._thinking
                return False
            case "executed_tools":
                return self._executed.take(objects(value, field, notes))
            case "reasoning_details":
                details = objects(value, field, notes)
                for detail in details:
                    self._details.take(detail)
                return bool(details)
            case "tool_calls":
                calls = [value] if isinstance(value, dict) else objects(value, field, notes)  # TGI sends one by itself
                return any([self._calls.take(call, notes) for call in calls])
            case "function_call":
                return self._take_function(mapping(value, field, notes))
            case "audio":
                return self._audio.take(mapping(value, field, notes))
            case "images" | "annotations":
                items = sequence(value, field, notes)
                self._rest.setdefault(field, []).extend(items)
                return bool(items) and field == "images"
            case "role":
                if isinstance(value, str) and value:
                    self._rest.setdefault(field, value)  # repeated in every chunk by many
                return False
            case _:
                known = self._rest.get(field)
                if isinstance(value, list) and isinstance(known, list) and value[: len(known)] != known:
                    known.extend(value)  # Perplexity's `reasoning_steps` come one by one
                else:
                    self._rest[field] = list(value) if isinstance(value, list) else value
                return False

    def _take_function(self, call: Mapping[str, Any]) -> bool:
        carried = False
        for field, pieces in self._function.items():
            value = call.get(field)
            if isinstance(value, str) and value and not (field == "name" and pieces):
                pieces.append(value)
                carried = True
        return carried

    def _built(self, field: str) -> Any:
        if field in _TEXTS:
            return "".join(self._texts[field])
        match field:
            case "content":
                return self._content.body()
            case "executed_tools":
                return self._executed.body()
            case "reasoning_details":
                return self._details.body()
            case "tool_calls":
                return self._calls.body()
            case "function_call":
                return {name: "".join(pieces) for name, pieces in self._function.items()}
            case "audio":
                return self._audio.body()
            case _:
                return self._rest[field]


class _Audio:
    def __init__(self) -> None:
        self._transcript: list[str] = []
        self._data: list[str] = []
        self._rest: dict[str, Any] = {}

    def take(self, audio: Mapping[str, Any]) -> bool:
        carried = False
        for field, value in audio.items():
            pieces = {"transcript": self._transcript, "data": self._data}.get(field)
            if pieces is not None and isinstance(value, str):
                pieces.append(value)
                carried = carried or bool(value)
            elif value is not None and not (field == "id" and self._rest.get("id")):
                self._rest[field] = value
        return carried or bool(self._rest)

    def body(self) -> dict[str, Any]:
        return {**self._rest, "data": joined_base64(self._data), "transcript": "".join(self._transcript)}
