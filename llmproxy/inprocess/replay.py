"""The replay upstream: answers a request that was captured before with the captured answer.

As any upstream it stands behind the forward path. Its own answers carry `x-llmproxy-replay` with the id of the exchange
they come from, so that ingest records that they passed and makes no second turn of them. In mode `record` what is not
known goes to the real provider, and its answer comes through here unmarked: it is captured as any other.
"""

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy.config import Config
from llmproxy.errors import ErrorCode, ProxyError, ResponseCut
from llmproxy.headers import get, request_headers, response_headers
from llmproxy.inprocess.connected import ClientGone, while_connected, whole_body
from llmproxy.inprocess.replay_reply import CannotReplay, Reply, reply
from llmproxy.inprocess.replay_settings import Options
from llmproxy.store.read_only import NothingCaptured, open_read_only
from llmproxy.store.replay_index import Known, ReplayIndex
from llmproxy.store.replay_question import Question
from llmproxy.upstreams import Upstream, open_upstreams

_UPSTREAM = "replay-record"


def create_app(options: Mapping[str, Any] | None = None) -> ASGIApp:
    """The replay upstream as an ASGI app.

    `options` are those of `replay_settings.Options`. Raises `ValueError`, in one line, for others and for a database
    that cannot be replayed from.
    """
    try:
        checked = Options.model_validate(dict(options or {}))
    except ValidationError as exc:
        told = (f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip() for each in exc.errors())
        raise ValueError("; ".join(told)) from None
    if checked.mode == "only":
        try:
            open_read_only(checked.database_path).close()
        except NothingCaptured as exc:
            raise ValueError(str(exc)) from None
    return Replay(checked)


class Replay:
    """The app. Its lifespan opens the database, read-only, and the upstream of mode `record`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._database: sqlite3.Connection | None = None
        self._index: ReplayIndex | None = None
        self._upstream: Upstream | None = None
        self._turns: dict[bytes, Iterator[int]] = defaultdict(itertools.count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            # When the client goes nothing more is made, and a request to the provider is closed.
            with contextlib.suppress(ClientGone):
                body = await whole_body(receive)
                await while_connected(self._answer(scope, body, send), receive)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(self._open)
                if self._options.upstream is not None:
                    config = Config(upstreams={_UPSTREAM: self._options.upstream})
                    self._upstream = (await stack.enter_async_context(open_upstreams(config))).default
            except NothingCaptured as exc:
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        if self._database is not None:
            self._database.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _open(self) -> ReplayIndex | None:
        """The index, with all that is captured by now; None while there is no database to record into yet."""
        options = self._options
        if self._index is None:
            try:
                self._database = open_read_only(options.database_path)
            except NothingCaptured:
                if options.mode == "record":
                    return None
                raise
            self._index = ReplayIndex(
                self._database, options.match, upstream=options.from_upstream, model=options.from_model
            )
            self._index.refresh()
        return self._index

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        index = await asyncio.to_thread(self._open)
        question = None
        known: list[Known] = []
        if index is not None:
            question = await asyncio.to_thread(index.question, scope["method"], path, scope["headers"], body)
            known = await asyncio.to_thread(_find, index, question)
        if self._upstream is not None and not any(each.good for each in known):
            await self._record(self._upstream, scope, body, send)
            return
        assert index is not None and question is not None
        if not known:
            await _send_error(send, *await asyncio.to_thread(_unknown, index, question, scope["method"]))
            return
        chosen = known[next(self._turns[question.key]) % len(known)]
        try:
            answered = await asyncio.to_thread(_reply, index, chosen, question, scope)
        except CannotReplay as exc:
            await _send_error(send, 501, "replay_needs_raw", str(exc))
            return
        await _send_reply(send, answered, self._options.speed, has_body=scope["method"] != "HEAD")

    async def _record(self, upstream: Upstream, scope: Scope, body: bytes, send: Send) -> None:
        headers = request_headers(scope["headers"], upstream.host, upstream.defaults, upstream.replaced)
        if body and get(headers, b"content-length") is None:
            headers.append((b"content-length", b"%d" % len(body)))
        target = scope["raw_path"]
        if target == b"/v1" or target.startswith(b"/v1/"):
            target = upstream.base_path + target[3:]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        request = httpx2.Request(
            "GET",
            upstream.url,
            headers=headers,
            stream=httpx2.ByteStream(body),
            extensions={"timeout": upstream.timeout, "target": target or b"/"},
        )
        request.method = scope["method"]
        try:
            response = await upstream.transport.handle_async_request(request)
        except httpx2.TransportError as exc:
            reason = str(exc) or type(exc).__name__
            code: ErrorCode = "upstream_timeout" if isinstance(exc, httpx2.TimeoutException) else "upstream_unreachable"
            await ProxyError(code, f"replay, recording from {upstream.host.decode()}: {reason}").send(send)
            return
        try:
            fields = response_headers(response.headers.raw, response.status_code)
            await send({"type": "http.response.start", "status": response.status_code, "headers": fields})
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            async for piece in response.stream:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx2.TransportError as exc:
            raise ResponseCut(str(exc) or type(exc).__name__) from exc
        finally:
            await response.aclose()


def _find(index: ReplayIndex, question: Question) -> list[Known]:
    known = index.find(question)
    if not known:
        index.refresh()
        known = index.find(question)
    return known


def _reply(index: ReplayIndex, chosen: Known, question: Question, scope: Scope) -> Reply:
    return reply(
        index.answer(chosen),
        stream=question.stream,
        usage=question.stream_usage,
        accepts=get(scope["headers"], b"accept-encoding") or b"",
    )


def _unknown(index: ReplayIndex, question: Question, method: str) -> tuple[int, str, str]:
    """Status, code and message for a request that was not captured."""
    if bare := index.without_bytes(question, method):
        return (
            501,
            "replay_needs_raw",
            f"{bare} exchange(s) with {method} {question.place} were captured without their bytes, which this needs;"
            " set capture.raw: all and capture again",
        )
    nearest = index.nearest(question)
    if nearest is None:
        message = f"this request was not captured, nor any other with {method} {question.place}"
    elif not nearest.diff:
        message = f"this request was not captured. The nearest is exchange {nearest.id}, which asked the same elsewhere"
    else:
        message = f"this request was not captured. The nearest is exchange {nearest.id}:\n{nearest.diff}"
    return 404, "replay_unknown_request", message


async def _send_error(send: Send, status: int, code: str, message: str) -> None:
    error = {"message": message, "type": "replay_error", "code": code, "param": None}
    body = json.dumps({"error": error}).encode()
    # SDKs try again on 5xx and some 4xx, which would only take time here.
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-should-retry", b"false"),
        (b"x-llmproxy-error", code.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_reply(send: Send, reply: Reply, speed: float, *, has_body: bool) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    pieces = reply.pieces if has_body else ()
    if speed and reply.pieces:
        await asyncio.sleep(reply.pieces[0][0] / speed)
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    for at, piece in pieces:
        if speed:
            await asyncio.sleep(max(0.0, at / speed - (loop.time() - started)))
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if reply.cut:
        raise ResponseCut("the captured response broke off here")
    await send({"type": "http.response.body", "body": b"", "more_body": False})
