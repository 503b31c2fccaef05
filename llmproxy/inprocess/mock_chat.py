"""The mock's Chat Completions (https://platform.openai.com/docs/api-reference/chat)."""

from collections.abc import Iterable

from llmproxy.inprocess import mock_objects
from llmproxy.inprocess.mock_dialect import Answer
from llmproxy.inprocess.mock_objects import usage_of
from llmproxy.inprocess.openai_objects import DONE, JsonObject, error_object
from llmproxy.inprocess.openai_objects import event as frame
from llmproxy.inprocess.openai_request import ChatRequest, parse

__all__ = [
    "CALL_ID",
    "GARBAGE",
    "RESPONSE_ID",
    "STREAM_END",
    "error_event",
    "error_object",
    "events",
    "frame",
    "read",
    "usage_of",
    "whole",
]

RESPONSE_ID = "chatcmpl-"
CALL_ID = "call_"
STREAM_END: tuple[bytes, ...] = (DONE,)
GARBAGE = b'data: {"this is": no JSON\n\n'


def read(body: JsonObject) -> ChatRequest:
    return parse(ChatRequest, body)


def whole(answer: Answer) -> JsonObject:
    return mock_objects.chat_completion(answer.head, answer.replies, answer.usage)


def events(answer: Answer) -> Iterable[JsonObject]:
    wanted = answer.usage if answer.chat.usage_in_stream else None
    return mock_objects.chat_completion_chunks(answer.head, answer.replies, wanted)


def error_event(error: JsonObject, position: int) -> JsonObject:
    return error
