"""What a model of `llm` says as pieces of an answer, each tool call once."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm.models import ToolCall
from llm.parts import StreamEvent


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the answer: text, reasoning, the name of a tool that is called (with the call's `id`), or a piece of
    the call's arguments. `index` tells the calls apart."""

    kind: Literal["content", "reasoning", "call", "arguments"]
    text: str
    index: int = 0
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer's end, with the tokens as the model reported them."""

    input_tokens: int | None
    output_tokens: int | None


@dataclass(slots=True)
class _Told:
    """A call that events told: its `id` from the plug-in, its `part` from `llm`, its arguments so far."""

    index: int
    name: str
    id: str | None
    part: int | None
    arguments: str = ""

    def has_id_of(self, call: ToolCall) -> bool:
        return self.id is not None and self.id == call.tool_call_id

    def says_the_same_as(self, call: ToolCall) -> bool:
        return self.name == call.name and _parsed(self.arguments) == call.arguments


class Pieces:
    """Turns what a plug-in tells into pieces. It tells a tool call by events, or at the end, or both, and not always by
    the same id."""

    def __init__(self) -> None:
        self._told: list[_Told] = []
        self._ids: set[str] = set()

    def of_event(self, event: StreamEvent) -> Iterator[Piece]:
        if event.server_executed:
            return
        if event.type == "tool_call_name":
            yield self._begin(event.chunk, event.tool_call_id or None, event.part_index)
        elif event.type == "tool_call_args" and event.chunk and (told := self._told_by(event)):
            told.arguments += event.chunk
            yield Piece("arguments", event.chunk, told.index)
        elif event.type == "text" and event.chunk:
            yield Piece("content", event.chunk)
        elif event.type == "reasoning" and event.chunk:
            yield Piece("reasoning", event.chunk)

    def of_calls(self, calls: Sequence[ToolCall]) -> Iterator[Piece]:
        """What the calls told at the end add to those that events told. The last pieces."""
        untold = list(calls)
        unmatched = list(self._told)
        told_without_arguments = [told for told in self._told if not told.arguments.strip()]
        given: dict[int, str] = {}
        # Ids first: among calls that say the same, each is to find its own.
        for is_same in (_Told.has_id_of, _Told.says_the_same_as):
            for call in tuple(untold):
                told = next((told for told in unmatched if is_same(told, call)), None)
                if told is not None:
                    unmatched.remove(told)
                    untold.remove(call)
                    given[told.index] = json.dumps(call.arguments)
        for told in told_without_arguments:
            yield Piece("arguments", given.get(told.index, "{}"), told.index)
        for call in untold:
            begun = self._begin(call.name, call.tool_call_id, None)
            yield begun
            yield Piece("arguments", json.dumps(call.arguments), begun.index)

    def _begin(self, name: str, id: str | None, part: int | None) -> Piece:
        told = _Told(len(self._told), name, id, part)
        self._told.append(told)
        # Providers that have no ids, or use one twice, leave it to us that the results find their calls.
        own = id if id and id not in self._ids else f"call_{uuid.uuid4().hex}"
        self._ids.add(own)
        return Piece("call", name, told.index, own)

    def _told_by(self, event: StreamEvent) -> _Told | None:
        """The call that a piece of arguments belongs to. `llm` numbers the parts so that calls without ids differ."""
        for told in reversed(self._told):
            have_ids = told.id and event.tool_call_id
            if told.id == event.tool_call_id if have_ids else told.part == event.part_index:
                return told
        # Text between a call and its arguments makes `llm` begin another part.
        last = self._told[-1] if self._told else None
        return None if last is None or (last.id and event.tool_call_id) else last


def _parsed(arguments: str) -> Any:
    """The value of the JSON text, {} where there is none, None where it is not JSON."""
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return None
