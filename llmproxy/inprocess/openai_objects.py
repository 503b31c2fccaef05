"""OpenAI's objects, key for key (https://platform.openai.com/docs/api-reference), as apps of ours send them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What the objects of one response have in common. `created`: seconds since 1970."""

    id: str
    created: int
    model: str


def chat_completion(head: Head, choices: Sequence[JsonObject], **more: Any) -> JsonObject:
    """A whole response; `more` are keys behind the choices, such as `usage`."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
        **more,
    }


def chat_choice(index: int, message: JsonObject, finish_reason: str) -> JsonObject:
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def chat_completion_chunk(head: Head, choices: Sequence[JsonObject], **more: Any) -> JsonObject:
    """A piece of a streamed response; `more` are keys behind the choices."""
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
        **more,
    }


def chat_delta(index: int, finish_reason: str | None = None, **delta: Any) -> JsonObject:
    """What a chunk adds to a choice."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


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


def event(item: JsonObject) -> bytes:
    """An object as an event of a stream."""
    return b"data: " + json.dumps(item, separators=(",", ":")).encode() + b"\n\n"


def named_event(item: JsonObject) -> bytes:
    """An object as an event of the name that its `type` is, as Responses and Messages send them."""
    return f"event: {item['type']}\n".encode() + event(item)
