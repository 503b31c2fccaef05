"""Tool calls put together from the deltas of chat completions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmproxy.reconstruct.json_values import Notes, dump, mapping, string
from llmproxy.reconstruct.text import parse_object


@dataclass(slots=True)
class _Call:
    index: int | None
    id: str
    type: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    function_rest: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)

    def is_whole(self) -> bool:
        return parse_object("".join(self.arguments), Notes()) is not None


class ToolCallDeltas:
    """The calls so far. A delta belongs to a call by its index, else by its id, else to the last one.

    A further call begins with a new index; with another id at the same index (Gemini's compatible API repeats 0); and,
    where neither tells, with another name, or with a name after a call that is whole.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def take(self, delta: Mapping[str, Any], notes: Notes) -> bool:
        """Take one entry of a delta's `tool_calls`. Returns whether it said anything."""
        function = mapping(delta.get("function"), "tool call function", notes)
        custom = mapping(delta.get("custom"), "custom tool call", notes)
        call_id = string(delta.get("id"), "tool call id", notes)
        name = string(function.get("name") or custom.get("name"), "tool call name", notes)
        arguments = _text(function.get("arguments") or custom.get("input"))
        call = self._call(_index(delta), call_id, name, arguments)
        call.id = call.id or call_id
        call.name = call.name or name
        call.type = call.type or string(delta.get("type"), "tool call type", notes)
        call.arguments.append(arguments)
        call.function_rest.update(_rest(function, ("name", "arguments")))
        call.rest.update(_rest(delta, ("index", "id", "type", "function", "custom")))
        return bool(name or arguments)

    def body(self) -> list[dict[str, Any]]:
        """The calls as they would have come unstreamed."""
        return [_body(call) for call in self._calls]

    def _call(self, index: int | None, call_id: str, name: str, arguments: str) -> _Call:
        call = self._continued(index, call_id, name)
        if call is None or (not call_id and name and call.name and _is_another(call, name, arguments)):
            call = _Call(index, call_id)
            self._calls.append(call)
        return call

    def _continued(self, index: int | None, call_id: str, name: str) -> _Call | None:
        for call in reversed(self._calls):
            if index is not None and call.index is not None:
                if call.index == index:
                    return None if call_id and call.id and call_id != call.id else call
            elif call_id:
                if call.id == call_id or not (call.id or name):  # an id may come after the name
                    return call
            else:
                return call
        return None


def _is_another(call: _Call, name: str, arguments: str) -> bool:
    return name != call.name or bool(arguments and call.is_whole())


def _body(call: _Call) -> dict[str, Any]:
    said = "".join(call.arguments)
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
