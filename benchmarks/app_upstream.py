"""The benchmarks' upstream as an ASGI app, so that llmproxy can have the same one in its process and over HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from benchmarks.messages import CHUNKS, MARK, MODE_HEADER, TIME_DIGITS, compact, completion, event, text

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PERIOD_SECONDS = 0.01
_BODY = compact(completion(text(800)))
_JSON_HEAD = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
_STREAM_HEAD = [(b"content-type", b"text/event-stream; charset=utf-8")]
_BEFORE_TIME, _, _AFTER_TIME = event({"content": f"{MARK.decode()}{'0' * TIME_DIGITS} tok"}).partition(
    MARK + b"0" * TIME_DIGITS
)
_END = event({}, "stop") + b"data: [DONE]\n\n"


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Answers as `benchmarks.upstream` does to `json`, and to all else as it does to `paced`."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    if dict(scope["headers"])[MODE_HEADER] == b"json":
        await send({"type": "http.response.start", "status": 200, "headers": _JSON_HEAD})
        await send({"type": "http.response.body", "body": _BODY})
        return
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEAD})
    due = time.monotonic()
    for _ in range(CHUNKS):
        chunk = b"%b%b%019d%b" % (_BEFORE_TIME, MARK, time.monotonic_ns(), _AFTER_TIME)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        due += PERIOD_SECONDS
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await send({"type": "http.response.body", "body": _END})
