"""The mock provider: a server without a model that speaks OpenAI's APIs and Anthropic's, for developing and testing
without a key.

It serves `/v1/chat/completions`, `/v1/responses`, `/v1/messages`, `/v1/messages/count_tokens`, `/v1/completions`,
`/v1/embeddings`, `/v1/models`, `/v1/models/NAME` and `/health`, each without `/v1` too. It keeps nothing: neither a
`previous_response_id`, nor an `item_reference`, nor a `thread` that is continued brings history back. What it answers
is told in `mock_answer`, what it can be told to do in `mock_settings`, what is of one API in `mock_dialect`; this is
the wire.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy.errors import ResponseCut
from llmproxy.inprocess.connected import ClientGone, while_connected, whole_body
from llmproxy.inprocess.mock_endpoints import respond
from llmproxy.inprocess.mock_response import Request, Response
from llmproxy.inprocess.mock_settings import Options

logger = logging.getLogger("llmproxy.mock")


class ScriptedCut(ResponseCut):
    """The request asked for a broken connection; raised to the server, which then drops it."""


def create_app(options: Mapping[str, Any] | None = None) -> ASGIApp:
    """The mock as an ASGI app.

    `options` are those of `mock_settings.Options`; others raise pydantic's `ValidationError`, a `ValueError`.
    """
    checked = Options.model_validate(dict(options or {}))
    numbers = itertools.count(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await _serve(checked, next(numbers), scope, receive, send)

    return app


async def _live(receive: Receive, send: Send) -> None:
    for moment in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{moment}.complete"})


async def _serve(options: Options, number: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, and log it in one line however it ends."""
    started = time.monotonic()
    response = None
    outcome = "failed"
    try:
        request = await _read(number, scope, receive)
        response = respond(options, request)
        await while_connected(_send(response, request, send), receive)
        outcome = "complete"
    except ClientGone:
        outcome = "client gone"
    except ScriptedCut:
        outcome = "cut"
        raise
    finally:
        logger.info(
            "%s %s model=%r stream=%s status=%s tokens=%s ms=%d %s",
            scope["method"],
            # As it was sent: a decoded path may hold a line break.
            scope.get("raw_path", b"").decode("latin-1") or repr(scope["path"]),
            response and response.model,
            response is not None and response.stream,
            response and response.status,
            response.tokens if response is not None else "-",
            (time.monotonic() - started) * 1000,
            outcome,
        )


async def _read(number: int, scope: Scope, receive: Receive) -> Request:
    body = await whole_body(receive)
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return Request(scope["method"], path, scope["headers"], body, number, time.time())


async def _send(response: Response, request: Request, send: Send) -> None:
    await asyncio.sleep(response.first_delay)
    await send({"type": "http.response.start", "status": response.status, "headers": _headers(response, request)})
    for position, piece in enumerate(response.pieces if request.method != "HEAD" else ()):
        # Even for 0 seconds: the client's going away is noticed here.
        await asyncio.sleep(response.chunk_delay if position else 0)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if response.cut:
        raise ScriptedCut("the request asked for a broken connection")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(response: Response, request: Request) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", b"req_mock%08d" % request.number), *response.headers]
    if response.content_length is None:
        return [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), *headers]
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % response.content_length), *headers]
