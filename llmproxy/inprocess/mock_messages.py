"""The mock's Messages (https://docs.anthropic.com/en/api/messages, …/messages-streaming, …/errors)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from llmproxy.inprocess import mock_objects
from llmproxy.inprocess.mock_answer import Reply, ToolCall, argument_pieces, words
from llmproxy.inprocess.mock_dialect import Answer
from llmproxy.inprocess.mock_messages_request import read
from llmproxy.inprocess.openai_objects import JsonObject
from llmproxy.inprocess.openai_objects import named_event as frame

__all__ = [
    "CALL_ID",
    "GARBAGE",
    "RESPONSE_ID",
    "STREAM_END",
    "error_event",
    "error_object",
    "events",
    "frame",
    "model_list",
    "model_object",
    "read",
    "usage_of",
    "whole",
]

RESPONSE_ID = "msg_"
CALL_ID = "toolu_"
STREAM_END: tuple[bytes, ...] = ()
GARBAGE = b'event: message_start\ndata: {"this is": no JSON\n\n'

# Finish reasons of Chat Completions. Others are said as they are.
_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def usage_of(prompt_tokens: int, replies: Sequence[Reply], price: float | None) -> JsonObject:
    usage = mock_objects.usage_of(prompt_tokens, replies, price)
    cost = {"cost": usage["cost"]} if "cost" in usage else {}
    return {
        "input_tokens": prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": usage["completion_tokens"],
        **cost,
    }


def whole(answer: Answer) -> JsonObject:
    (reply,) = answer.replies
    return {**_base(answer), "content": _blocks(reply), **_stop(reply), "usage": answer.usage}


def events(answer: Answer) -> Iterator[JsonObject]:
    (reply,) = answer.replies
    usage = answer.usage
    # How much is said is not known yet; the provider begins with a number just as small.
    begun = {**usage, "output_tokens": 1} if usage else usage
    yield {"type": "message_start", "message": {**_base(answer), "usage": begun}}
    yield {"type": "ping"}
    for index, (start, deltas) in enumerate(_streamed(reply)):
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": _stop(reply), "usage": usage}
    yield {"type": "message_stop"}


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> JsonObject:
    """An error. The API has neither a parameter nor a code: its messages name the place."""
    kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def error_event(error: JsonObject, position: int) -> JsonObject:
    return error


def model_object(name: str) -> JsonObject:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def model_list(names: Sequence[str]) -> JsonObject:
    data = [model_object(name) for name in names]
    return {"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def _base(answer: Answer) -> JsonObject:
    return {
        "id": answer.head.id,
        "type": "message",
        "role": "assistant",
        "model": answer.head.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(reply: Reply) -> JsonObject:
    reason = _STOP_REASONS.get(reply.finish_reason, reply.finish_reason)
    if reason == "end_turn" and reply.stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": reply.stop_sequence}
    return {"stop_reason": reason, "stop_sequence": None}


def _blocks(reply: Reply) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    if reply.reasoning:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": "mock"})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in reply.tool_calls
    ]
    return blocks


def _streamed(reply: Reply) -> Iterator[tuple[JsonObject, list[JsonObject]]]:
    """How each block starts, and the deltas that complete it."""
    if reply.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in words(reply.reasoning)]
        signature = {"type": "signature_delta", "signature": "mock"}
        yield {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signature]
    if reply.text:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in reply.chunks]
    for call in reply.tool_calls:
        # The first delta is empty, as the provider's.
        pieces = ("", *argument_pieces(call.arguments))
        start: JsonObject = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield start, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def _input(call: ToolCall) -> Any:
    """The arguments as the object that they are; scripted ones that are none stay the text that they are."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments
