"""OpenAI's objects as the mock sends them."""

import base64
import itertools
import struct
from collections.abc import Iterator, Sequence

from llmproxy.inprocess import openai_objects
from llmproxy.inprocess.mock_answer import Reply, ToolCall, argument_pieces, completion_tokens, reasoning_tokens, words
from llmproxy.inprocess.openai_objects import Head, JsonObject, chat_choice, chat_delta

_FINGERPRINT = {"service_tier": "default", "system_fingerprint": "fp_mock"}


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
    choices = [chat_choice(index, _message(reply), reply.finish_reason) for index, reply in enumerate(replies)]
    return openai_objects.chat_completion(head, choices, usage=usage, **_FINGERPRINT)


def chat_completion_chunks(head: Head, replies: Sequence[Reply], usage: JsonObject | None) -> Iterator[JsonObject]:
    """The stream: the choices' chunks in turn, and the usage at the end where it is wanted."""
    absent = {} if usage is None else {"usage": None}
    for choice in _in_turn([_chat_choices(index, reply) for index, reply in enumerate(replies)]):
        yield openai_objects.chat_completion_chunk(head, [choice], **absent, **_FINGERPRINT)
    if usage is not None:
        yield openai_objects.chat_completion_chunk(head, [], usage=usage, **_FINGERPRINT)


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
    yield chat_delta(
        index, role="assistant", content=None if reply.tool_calls and not reply.chunks else "", refusal=None
    )
    for piece in words(reply.reasoning):
        yield chat_delta(index, reasoning_content=piece)
    for piece in reply.chunks:
        yield chat_delta(index, content=piece)
    for position, call in enumerate(reply.tool_calls):
        for delta in _tool_call_deltas(position, call):
            yield chat_delta(index, tool_calls=[delta])
    yield chat_delta(index, reply.finish_reason)


def _tool_call_deltas(position: int, call: ToolCall) -> Iterator[JsonObject]:
    function = {"name": call.name, "arguments": ""}
    yield {"index": position, "id": call.id, "type": "function", "function": function}
    for piece in argument_pieces(call.arguments):
        yield {"index": position, "function": {"arguments": piece}}


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
