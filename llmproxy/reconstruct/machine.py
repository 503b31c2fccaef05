"""What every API's module offers: a reading of the request, and a small machine that is fed the response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llm import Tool
from llm.parts import Message

from llmproxy.reconstruct.turn import Output, Usage


@dataclass(frozen=True, slots=True)
class RequestReading:
    """A request's body, understood. Its fields are those of `Turn`."""

    model: str | None
    input: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    previous_response_id: str | None = None
    conversation: str | None = None
    echoed_item: str | None = None
    instructions: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseReading:
    """A response's body, understood as far as it came. Its fields are those of `Turn`."""

    outputs: tuple[Output, ...] = ()
    resolved_model: str | None = None
    usage: Usage = field(default_factory=Usage)
    response_json: Any = None
    response_id: str | None = None
    error: str | None = None
    finished: bool = False
    notes: tuple[str, ...] = ()


class ResponseMachine(Protocol):
    """Reads one response with status 2xx: either by `event`, once for each event of a stream, or by one `whole`.

    `finish` may be called at any moment, once, and gives what there is. No method raises on odd JSON: what has the
    wrong type is skipped and noted.
    """

    def event(self, name: str, data: Any) -> bool:
        """Take one event: its `event:` field ("" where there was none) and its parsed data.

        Returns whether it carried output (text, reasoning, a tool call), so that the first token's time is known.
        `[DONE]` and data that is not JSON do not come here.
        """
        ...

    def done(self) -> None:
        """The stream's `[DONE]` was seen."""
        ...

    def whole(self, body: Any) -> None:
        """Take the parsed body of an unstreamed response."""
        ...

    def finish(self) -> ResponseReading:
        """What was said, as far as it came."""
        ...
