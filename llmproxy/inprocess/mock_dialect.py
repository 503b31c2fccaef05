"""What the mock has to know of an API: how its requests are read, and how an answer and an error are said in it.

A module for each API is such a dialect (`mock_chat`, `mock_responses`, `mock_messages`); what is answered is the same
in all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmproxy.inprocess.mock_answer import Reply
from llmproxy.inprocess.openai_objects import Head, JsonObject
from llmproxy.inprocess.openai_request import ChatRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to one request. `body` is the request's own, `replies` are its choices: one in most APIs."""

    head: Head
    body: JsonObject
    chat: ChatRequest
    replies: tuple[Reply, ...]
    usage: JsonObject


class Dialect(Protocol):
    """An API."""

    # What the ids of its responses and of its tool calls begin with.
    RESPONSE_ID: str
    CALL_ID: str
    # What ends each of its streams, and a stream of bytes that are no JSON.
    STREAM_END: tuple[bytes, ...]
    GARBAGE: bytes

    def read(self, body: JsonObject) -> ChatRequest:
        """The request as Chat Completions would have it. Raises `BadRequest`."""

    def usage_of(self, prompt_tokens: int, replies: Sequence[Reply], price: float | None) -> JsonObject:
        """`usage`; `price` is in dollars for a million tokens."""

    def whole(self, answer: Answer) -> JsonObject:
        """The response's body."""

    def events(self, answer: Answer) -> Iterable[JsonObject]:
        """The objects of the stream."""

    def frame(self, item: JsonObject) -> bytes:
        """An object as an event of a stream."""

    def error_object(self, status: int, message: str, param: str | None = None, code: str | None = None) -> JsonObject:
        """An error's body; what is wrong stands under `error`."""

    def error_event(self, error: JsonObject, position: int) -> JsonObject:
        """The object, the `position`th of its stream, that says the error that a body would say."""
