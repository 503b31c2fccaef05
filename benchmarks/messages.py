"""The bytes that pass in the benchmarks: made once, before anything is measured."""

import json
from typing import Any

TEXT = "lorem ipsum dolor sit amet "
# A chunk of a stream holds this mark once, nowhere else, and after it its time of sending (nanoseconds of the monotonic
# clock, which all processes share) in so many digits.
MARK = b"@"
TIME_DIGITS = 19
CHUNKS = 100
# So many chunks come before a held stream falls silent.
HELD_CHUNKS = 5
# Says which way the upstream is to answer. In the head, so that the upstream need not look into bodies.
MODE_HEADER = b"x-benchmark"


def text(size: int) -> str:
    """Filler of `size` characters."""
    return (TEXT * (size // len(TEXT) + 1))[:size]


def request(path: str, mode: str, body_bytes: int) -> bytes:
    """A chat completion as an SDK sends it, head and body, with a body of `body_bytes`."""
    body = {
        "model": "benchmark",
        "stream": mode != "json",
        "temperature": 0.2,
        "messages": [{"role": "user", "content": ""}],
    }
    missing = body_bytes - len(compact(body))
    body["messages"] = [{"role": "user", "content": text(max(missing, 1))}]
    payload = compact(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 2.8.0\r\nX-Stainless-Lang: python\r\nAuthorization: Bearer sk-benchmark\r\n"
        f"{MODE_HEADER.decode()}: {mode}\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def completion(content: str) -> dict[str, Any]:
    """The response object of a chat completion."""
    return {
        "id": "chatcmpl-BxQ0123456789abcdefghij",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "benchmark-2026-01-01",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 250, "completion_tokens": 190, "total_tokens": 440},
    }


def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """One event of a streamed chat completion."""
    chunk = {
        "id": "chatcmpl-BxQ0123456789abcdefghij",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "benchmark-2026-01-01",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + compact(chunk) + b"\n\n"


def compact(value: object) -> bytes:
    """JSON as the SDKs send it."""
    return json.dumps(value, separators=(",", ":")).encode()
