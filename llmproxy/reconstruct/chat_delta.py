"""A chat completion's message put together from the deltas of its stream."""

from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.attachments import joined_base64
from llmproxy.reconstruct.chat_reasoning import REASONING_FIELDS, ReasoningDetails
from llmproxy.reconstruct.chat_tool_calls import ToolCallDeltas
from llmproxy.reconstruct.json_values import Notes, mapping, objects, sequence

_TEXTS = (*REASONING_FIELDS, "refusal")


class ChatSaid:
    """One choice's message so far. Its fields keep the order in which they first said something."""

    def __init__(self) -> None:
        self._order: dict[str, None] = {}
        self._texts: dict[str, list[str]] = {field: [] for field in _TEXTS}
        self._content = _Content()
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
        return {"message": {**message, **({} if "content" in message else {"content": None}), **self._rest}}

    def _take_field(self, field: str, value: Any, notes: Notes) -> bool:
        """Returns whether the field said something of the message; what it only knows of is kept beside."""
        if field in _TEXTS:
            if not isinstance(value, str):
                notes.add(f"{field} is not a string")
                return False
            self._texts[field].append(value)
            return bool(value)
        match field:
            case "content":
                return self._content.take(value, notes)
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
                self._rest[field] = value
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


class _Content:
    """Text, or the list of text and thinking that Mistral's reasoning models send. Each goes on with its like."""

    def __init__(self) -> None:
        self._is_list = False
        self._blocks: list[tuple[dict[str, Any], list[str]]] = []

    def take(self, value: Any, notes: Notes) -> bool:
        if isinstance(value, str):
            return self._go_on({"type": "text"}, value)
        self._is_list = True
        carried = False
        for block in [value] if isinstance(value, dict) else objects(value, "content", notes):
            match block.get("type"):
                case "text":
                    text = block.get("text")
                    carried = self._go_on({"type": "text"}, text if isinstance(text, str) else "") or carried
                case "thinking":
                    carried = self._go_on(_without(block, "thinking"), _thinking(block)) or carried
                case _:
                    self._blocks.append((dict(block), []))
                    carried = True
        return carried

    def _go_on(self, fields: dict[str, Any], text: str) -> bool:
        if self._blocks and self._blocks[-1][0].get("type") == fields["type"]:
            known, pieces = self._blocks[-1]
            known.update(fields)
            pieces.append(text)
        elif text:
            self._blocks.append((fields, [text]))
        return bool(text)

    def body(self) -> Any:
        if not self._is_list:
            return "".join(text for _, pieces in self._blocks for text in pieces)
        return [_built_block(fields, "".join(pieces)) for fields, pieces in self._blocks]


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


def _thinking(block: Mapping[str, Any]) -> str:
    thinking = block.get("thinking")
    if isinstance(thinking, str):
        return thinking
    texts = [item.get("text") for item in thinking if isinstance(item, dict)] if isinstance(thinking, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def _built_block(fields: dict[str, Any], text: str) -> dict[str, Any]:
    match fields.get("type"):
        case "text":
            return {**fields, "text": text}
        case "thinking":
            return {**fields, "thinking": [{"type": "text", "text": text}]}
        case _:
            return fields


def _without(block: Mapping[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != field}
