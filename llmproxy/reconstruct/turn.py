"""What one model call meant: the values that reconstruction produces.

A turn is built from the bytes of one exchange and nothing else. Its messages are `llm.parts` values, so that whatever
reads `llm`'s logs reads a captured turn too; everything here is frozen and free of I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm import Tool
from llm.parts import Message

Api = Literal["chat.completions", "completions", "responses", "messages", "embeddings"]


class NotReconstructed(ValueError):
    """The bytes of an exchange could not be read as a turn.

    `reason` is one short phrase, the same for the same cause (``"request body is not JSON"``), so that reasons can be
    counted; `detail` holds what differs from case to case.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reported them. `None` where it said nothing.

    `details` is the rest of the provider's usage object, with zeros, nulls and what `input_tokens` and `output_tokens`
    already say left out, as `llm` does it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """One answer to the request: a choice. Most requests have one.

    `messages` is what the model said, in order; it is empty when it said nothing (an error, a cut before the first
    token). `finish_reason` is the provider's own word (``stop``, ``tool_calls``, ``end_turn``, ``completed`` …).
    """

    index: int
    messages: tuple[Message, ...]
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call with its meaning.

    A hook is given one of these for each exchange that could be reconstructed.

    - `api`: which API was spoken.
    - `model`: the model the request asked for; `resolved_model`: the one that the response says answered.
    - `input`: the request's messages in order, history included, as the client sent them (`llm.Message`).
    - `outputs`: the answers, by index. Empty for embeddings and for calls that failed.
    - `tools`, `schema`: what the model was given; `options`: every other parameter of the request.
    - `usage`: tokens as reported, or empty.
    - `response_json`: the response object as the provider would have sent it unstreamed; for an error, the error's.
    - `response_id`: the provider's id of the response.
    - `previous_response_id`, `conversation`: the request's explicit pointer at earlier turns. Where there is one,
      `input` holds only what is new.
    - `echoed_item`: the provider's id of the last answer that the request sends back (Responses).
    - `instructions`: so many of the first messages of `input` are the request's `instructions`, which the provider does
      not carry over to a request that points at it.
    - `session`: the client's own id of the session, where a header or a field carried one.
    - `stream`: the response was an event stream.
    - `finished`: the response reached its own end (a whole JSON body, a `[DONE]`, a final event).
    - `error`: what the provider said went wrong, in its words.
    - `first_token_us`: microseconds from the start of the exchange to the first piece that carried output.
    - `notes`: short phrases for what was seen and not understood, the same for the same cause, so that they can be
      counted (``"unknown event: response.foo"``).
    """

    api: Api
    model: str | None
    input: tuple[Message, ...]
    outputs: tuple[Output, ...] = ()
    resolved_model: str | None = None
    tools: tuple[Tool, ...] = ()
    schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = Usage()
    response_json: Any = None
    response_id: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None
    echoed_item: str | None = None
    instructions: int = 0
    session: str | None = None
    stream: bool = False
    finished: bool = True
    error: str | None = None
    first_token_us: int | None = None
    notes: tuple[str, ...] = ()
