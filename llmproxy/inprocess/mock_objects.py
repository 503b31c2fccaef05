"""OpenAI's objects as the mock sends them, key for key (https://platform.openai.com/docs/api-reference)."""

import base64
import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.inprocess.mock_answer import Reply, ToolCall, completion_tokens, reasoning_tokens, words

JsonObject = dict[str, Any]

_ARGUMENTS_PIECE = 8


@dataclass(frozen=True, slots=True)
class Head:
    """What the objects of one response have in common."""

    id: str
    created: int
    model: str


def usage_of(prompt_tokens: int, replies: Sequence[Reply], price: float | None) -> JsonObject:
    """`usage`; with a price (dollars for a million tokens) also `cost`, as OpenRouter has it."""
    completion = completion_tokens(replies)
    usage: JsonObject = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens(replies),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if price is not None:
        usage["cost"] = (prompt_tokens + completion) * price / 1_000_000
    return usage


def chat_completion(head: Head, replies: Sequence[Reply], usage: JsonObject) -> JsonObject:
    choices = [
        {"index": index, "message": _message(reply), "logprobs": None, "finish_reason": reply.finish_reason}
        for index, reply in enumerate(replies)
    ]
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def chat_completion_chunks(head: Head, replies: Sequence[Reply], usage: JsonObject | None) -> Iterator[JsonObject]:
    """The stream: the choices' chunks in turn, and the usage at the end where it is wanted."""
    base = {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }
    absent = {} if usage is None else {"usage": None}
    for choice in _in_turn([_chat_choices(index, reply) for index, reply in enumerate(replies)]):
        yield {**base, "choices": [choice], **absent}
    if usage is not None:
        yield {**base, "choices": [], "usage": usage}


def text_completion(head: Head, replies: Sequence[Reply], usage: JsonObject) -> JsonObject:
    choices = [_text_choice(index, reply.text, reply.finish_reason) for index, reply in enumerate(replies)]
    return {**_text_base(head), "choices": choices, "usage": usage}


def text_completion_chunks(head: Head, replies: Sequence[Reply], usage: JsonObject | None) -> Iterator[JsonObject]:
    absent = {} if usage is None else {"usage": None}
    for choice in _in_turn([_text_choices(index, reply) for index, reply in enumerate(replies)]):
        yield {**_text_base(head), "choices": [choice], **absent}
    if usage is not None:
        yield {**_text_base(head), "choices": [], "usage": usage}


def embedding_list(model: str, vectors: Sequence[Sequence[float]], usage: JsonObject, *, as_base64: bool) -> JsonObject:
    """The embeddings as numbers, or as base64 of little-endian 32-bit floats, which OpenAI's own client asks for."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if as_base64
            else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage}


def model_object(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "llmproxy"}


def model_list(names: Sequence[str]) -> JsonObject:
    return {"object": "list", "data": [model_object(name) for name in names]}


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> JsonObject:
    """An error; its type, and where none is given its code, go by the status."""
    kinds = {
        401: ("invalid_request_error", "invalid_api_key"),
        429: ("rate_limit_error", "rate_limit_exceeded"),
    }
    kind, usual_code = kinds.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual_code}}


def _message(reply: Reply) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    return message


def _chat_choices(index: int, reply: Reply) -> Iterator[JsonObject]:
    def choice(finish_reason: str | None = None, **delta: Any) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    yield choice(role="assistant", content=None if reply.tool_calls and not reply.chunks else "", refusal=None)
    for piece in words(reply.reasoning):
        yield choice(reasoning_content=piece)
    for piece in reply.chunks:
        yield choice(content=piece)
    for position, call in enumerate(reply.tool_calls):
        for delta in _tool_call_deltas(position, call):
            yield choice(tool_calls=[delta])
    yield choice(reply.finish_reason)


def _tool_call_deltas(position: int, call: ToolCall) -> Iterator[JsonObject]:
    function = {"name": call.name, "arguments": ""}
    yield {"index": position, "id": call.id, "type": "function", "function": function}
    # At least two pieces, so that even `{}` has to be put together.
    size = max(1, min(_ARGUMENTS_PIECE, math.ceil(len(call.arguments) / 2)))
    for start in range(0, len(call.arguments), size):
        yield {"index": position, "function": {"arguments": call.arguments[start : start + size]}}


def _text_base(head: Head) -> JsonObject:
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": "fp_mock",
    }


def _text_choice(index: int, text: str, finish_reason: str | None) -> JsonObject:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _text_choices(index: int, reply: Reply) -> Iterator[JsonObject]:
    for piece in reply.chunks:
        yield _text_choice(index, piece, None)
    yield _text_choice(index, "", reply.finish_reason)


def _in_turn(choices: Sequence[Iterator[JsonObject]]) -> Iterator[JsonObject]:
    for together in itertools.zip_longest(*choices):
        yield from (choice for choice in together if choice is not None)
