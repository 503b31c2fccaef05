"""Tool calls put together from the deltas of chat completions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmproxy.reconstruct.json_values import Notes, dump, mapping, string
from llmproxy.reconstruct.object_text import JSONObjectText


@dataclass(slots=True)
class _Call:
    index: int | None
    id: str
    type: str = ""
    name: str = ""
    text: JSONObjectText = field(default_factory=JSONObjectText)
    function_rest: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)


class _Newest:
    """Of some calls, by their positions, the newest with an id and the newest without one."""

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._without_id: list[int] = []

    def add(self, position: int, call: _Call) -> None:
        """A call that is new, or that has been given its id."""
        if call.id:
            self._by_id[call.id] = max(position, self._by_id.get(call.id, -1))
        else:
            self._without_id.append(position)

    def found(self, call_id: str, name: str, calls: list[_Call]) -> int:
        """The position of the newest call that goes on with this id, or -1. An id may come after the name."""
        while self._without_id and calls[self._without_id[-1]].id:
            self._without_id.pop()
        without = self._without_id[-1] if self._without_id and not name else -1
        return max(without, self._by_id.get(call_id, -1))


class ToolCallDeltas:
    """The calls so far. A delta belongs to a call by its index, else by its id, else to the last one.

    A further call begins with a new index; with another id at the same index (Gemini's compatible API repeats 0); and,
    where neither tells, with another name, or with a name after a call that is whole.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int | None, int] = {}  # the positions of the newest
        self._all = _Newest()
        self._without_index = _Newest()

    def take(self, delta: Mapping[str, Any], notes: Notes) -> bool:
        """Take one entry of a delta's `tool_calls`. Returns whether it said anything."""
        function = mapping(delta.get("function"), "tool call function", notes)
        custom = mapping(delta.get("custom"), "custom tool call", notes)
        call_id = string(delta.get("id"), "tool call id", notes)
        name = string(function.get("name") or custom.get("name"), "tool call name", notes)
        arguments = _text(function.get("arguments") or custom.get("input"))
        position = self._position(_index(delta), call_id, name, arguments)
        call = self._calls[position]
        if call_id and not call.id:
            call.id = call_id
            self._remember(position)
        call.name = call.name or name
        call.type = call.type or string(delta.get("type"), "tool call type", notes)
        call.text.append(arguments)
        call.function_rest.update(_rest(function, ("name", "arguments")))
        call.rest.update(_rest(delta, ("index", "id", "type", "function", "custom")))
        return bool(name or arguments)

    def body(self) -> list[dict[str, Any]]:
        """The calls as they would have come unstreamed."""
        return [_body(call) for call in self._calls]

    def _position(self, index: int | None, call_id: str, name: str, arguments: str) -> int:
        position = self._continued(index, call_id, name)
        if position >= 0:
            call = self._calls[position]
            if call_id or not name or not call.name or not _is_another(call, name, arguments):
                return position
        position = len(self._calls)
        self._calls.append(_Call(index, call_id))
        self._by_index[index] = position
        self._remember(position)
        return position

    def _remember(self, position: int) -> None:
        call = self._calls[position]
        self._all.add(position, call)
        if call.index is None:
            self._without_index.add(position, call)

    def _continued(self, index: int | None, call_id: str, name: str) -> int:
        """The position of the call that goes on, or -1."""
        if index is None:
            return self._all.found(call_id, name, self._calls) if call_id else len(self._calls) - 1
        same = self._by_index.get(index, -1)
        if not call_id:
            return max(same, self._by_index.get(None, -1))
        other = self._without_index.found(call_id, name, self._calls)
        if other > same or same < 0:
            return other
        return same if self._calls[same].id in ("", call_id) else -1


def _is_another(call: _Call, name: str, arguments: str) -> bool:
    return name != call.name or bool(arguments and call.text.is_whole())


def _body(call: _Call) -> dict[str, Any]:
    said = str(call.text)
    if call.type == "custom":
        content = {"custom": {"name": call.name, "input": said, **call.function_rest}}
    else:
        content = {"function": {"name": call.name, "arguments": said, **call.function_rest}}
    return {"id": call.id, "type": call.type or "function", **content, **call.rest}


def _index(delta: Mapping[str, Any]) -> int | None:
    index = delta.get("index")
    return index if type(index) is int else None


def _text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return dump(arguments) if arguments else ""  # Null and {} stand for nothing; a whole object has been seen too.


def _rest(fields: Mapping[str, Any], mapped: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in mapped and value is not None}
