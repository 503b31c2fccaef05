"""Output items of a Responses stream while they are being sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmproxy.reconstruct.json_values import object_or_empty

# Events `<name>.delta` and `<name>.done`: what they write.
# In a list of the item: (the list, the event's index into it, the entry's type, the entry's and the event's field).
_IN_LIST = {
    "response.output_text": ("content", "content_index", "output_text", "text"),
    "response.refusal": ("content", "content_index", "refusal", "refusal"),
    "response.reasoning_text": ("content", "content_index", "reasoning_text", "text"),
    "response.reasoning_summary_text": ("summary", "summary_index", "summary_text", "text"),
    "response.audio.transcript": ("content", "content_index", "output_audio", "transcript"),
    "response.output_audio_transcript": ("content", "content_index", "output_audio", "transcript"),
}
# In the item itself: the field.
_IN_ITEM = {
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
}
# The item's type, where its announcement was lost or never sent.
_ITEM_TYPES = {
    "response.reasoning_text": "reasoning",
    "response.reasoning_summary_text": "reasoning",
    "response.function_call_arguments": "function_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
}
_TOOL_CALL_SUFFIX = "_call"


@dataclass(slots=True)
class _Item:
    body: dict[str, Any]
    finished: bool = False
    # Text as it comes, in pieces: strings that grow one delta at a time would be copied each time.
    pieces: dict[tuple[str, int, str, str], list[str]] = field(default_factory=dict)


class ResponseItems:
    """Items by their `output_index`. Deltas build an item until `response.output_item.done` brings it whole."""

    def __init__(self) -> None:
        self._items: dict[int, _Item] = {}
        self._next = 0  # the index after the highest one
        self._indexes: dict[str, int] = {}  # item id -> output_index, for servers that give only the id

    def added(self, event: Mapping[str, Any]) -> bool:
        """`response.output_item.added`. Whether it carried output: a tool's name does."""
        item = self._announced(event)
        item.body = dict(object_or_empty(event.get("item")))
        return _is_call(item.body)

    def finished(self, event: Mapping[str, Any]) -> bool:
        """`response.output_item.done`. Whether it carried output."""
        item = self._announced(event)
        item.body, item.finished = dict(object_or_empty(event.get("item"))), True
        item.pieces.clear()
        return _is_call(item.body) or bool(item.body.get("content") or item.body.get("summary"))

    def text(self, name: str, event: Mapping[str, Any]) -> bool | None:
        """A delta of text or arguments, or their end. Whether it carried output; None if it is no such event."""
        stem, _, ending = name.rpartition(".")
        if ending not in ("delta", "done") or not (stem in _IN_LIST or stem in _IN_ITEM):
            return None
        if stem in _IN_LIST:
            section, index_key, entry_type, target = _IN_LIST[stem]
            index = event.get(index_key)
            slot = (section, index if type(index) is int else 0, entry_type, target)
        else:
            target = _IN_ITEM[stem]
            slot = ("", 0, "", target)
        text = event.get("delta" if ending == "delta" else target)
        if not isinstance(text, str):
            return False
        item = self._item(event, {"type": _ITEM_TYPES.get(stem, "message")})
        if item.finished:
            return False
        if ending == "done":
            item.pieces[slot] = [text]  # the whole text again
        else:
            item.pieces.setdefault(slot, []).append(text)
        return bool(text)

    def bodies(self) -> list[dict[str, Any]]:
        """The items so far, in order, as they would have come unstreamed."""
        return [_built(self._items[index]) for index in sorted(self._items)]

    def _announced(self, event: Mapping[str, Any]) -> _Item:
        """The item that an event brings with it: a new one where its index is that of an item already done, as servers
        send it that never count the index up."""
        body = object_or_empty(event.get("item"))
        item = self._item(event, body)
        if not item.finished:
            return item
        index = self._next
        if isinstance(body.get("id"), str):
            self._indexes[body["id"]] = index
        return self._ensure(index, _Item({}))

    def _item(self, event: Mapping[str, Any], body: Mapping[str, Any]) -> _Item:
        """The item of an event: by its id where that is known (GitHub Copilot gives a new one in each event), else by
        its index, else a new one."""
        identifier = event.get("item_id") or body.get("id")
        index = self._indexes.get(identifier) if isinstance(identifier, str) else None
        if index is None:
            given = event.get("output_index")
            index = given if type(given) is int else self._next
            if isinstance(identifier, str) and identifier:
                self._indexes[identifier] = index
        return self._ensure(index, _Item(dict(body)))

    def _ensure(self, index: int, item: _Item) -> _Item:
        self._next = max(self._next, index + 1)
        return self._items.setdefault(index, item)


def _built(item: _Item) -> dict[str, Any]:
    body = dict(item.body)
    for section in sorted({slot[0] for slot in item.pieces if slot[0]}):
        entries = body.get(section)
        body[section] = list(entries) if isinstance(entries, list) else []
    for (section, index, entry_type, target), pieces in sorted(item.pieces.items()):
        text = "".join(pieces)
        if not section:
            body[target] = text
            continue
        entries = body[section]
        if 0 <= index < len(entries) and isinstance(entries[index], dict):
            entries[index] = {**entries[index], target: text}
        else:
            entries.append({"type": entry_type, target: text})
    if body.get("type") == "message":
        body.setdefault("role", "assistant")
    return body


def _is_call(body: Mapping[str, Any]) -> bool:
    return str(body.get("type")).endswith(_TOOL_CALL_SUFFIX)
