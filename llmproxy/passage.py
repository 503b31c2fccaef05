"""One exchange on its way between our own server and our own HTTP/1.1 transport: see `direct`."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

import httpx2

from llmproxy.capture.tee import Recording, SpoolError, Tee
from llmproxy.client import DirectClient
from llmproxy.errors import ProxyError
from llmproxy.forward import failure, spool_unavailable, wrong_status
from llmproxy.transports.connection import Connection
from llmproxy.transports.http1 import LAST_CHUNK, Pool, chunk, in_chunks
from llmproxy.upstreams import Upstream

logger = logging.getLogger("llmproxy")


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from a request's head. Of pairs of bytes, the length of the body goes between the two."""

    upstream: Upstream
    pool: Pool
    method: str
    head: tuple[bytes, bytes]
    recorded: tuple[bytes, bytes]
    chunked: bool
    connect_timeout: float | None
    read_timeout: float | None
    write_timeout: float | None


def _step(step: Callable[["Passage"], None]) -> Callable[["Passage"], None]:
    """Whoever calls a passage back has no part in what it raises, and the client is not to wait for ever for it."""

    @wraps(step)
    def guarded(passage: "Passage") -> None:
        try:
            step(passage)
        except Exception as exc:
            passage.broken(exc)

    return guarded


class Passage:
    """One exchange on its way. Each step is called by what the step before has set going."""

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_head",
        "_last",
        "_more",
        "_over",
        "_plan",
        "_recording",
        "_started",
        "_task",
        "_tee",
    )

    _recording: Recording

    def __init__(self, tee: Tee, plan: Plan, client: DirectClient) -> None:
        self._tee = tee
        self._plan = plan
        self._client = client
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._body = b""
        self._more = False  # of the request's body is to come
        self._head: tuple[int, list[bytes], int | None] | None = None  # of the response, until the client has it
        self._started = False  # the response has begun to come
        self._last = b""
        self._over = False

    # -- there

    def begin(self) -> None:
        plan, client = self._plan, self._client
        text = _with_length(plan.recorded, client.length)
        if client.whole:
            self._body = client.take()
        try:
            self._recording = self._tee.begin_text(plan.upstream.name, text, self._body)
        except SpoolError as exc:
            self._answer(spool_unavailable(exc))
            return
        client.on_disconnect = self._client_gone
        if client.whole:
            self._recording.when_written(self._request_written)
        elif not client.when_whole(self._request_came):
            self._start(self._receive())

    @_step
    def _request_came(self) -> None:
        if not self._over:
            self._received(self._client.take())

    async def _receive(self) -> None:
        message = await self._client.receive()
        if message["type"] == "http.request":
            self._more = message["more_body"]
            self._received(message["body"])

    def _received(self, body: bytes) -> None:
        self._body = body
        self._recording.request_body(body)
        self._recording.when_written(self._request_written)

    @_step
    def _request_written(self) -> None:
        if self._over:
            return
        try:
            self._recording.request_written()
        except SpoolError as exc:
            self._recording.end("refused")
            self._answer(spool_unavailable(exc))
            return
        connection = self._plan.pool.take()
        if connection is not None:
            self._send(connection)
        else:
            self._start(self._open())

    async def _open(self) -> None:
        try:
            connection = await self._plan.pool.open(self._plan.connect_timeout)
        except httpx2.TransportError as exc:
            self._failed(exc)
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        plan, body = self._plan, self._body
        self._connection = connection
        self._body = b""
        head = _with_length(plan.head, self._client.length)
        if self._more:
            connection.begin(plan.method, head, self._framed(body))
            connection.sending = True
            self._start(self._upload(connection))
        else:
            connection.begin(plan.method, head, in_chunks(body) if plan.chunked else body)
        self._watch(connection)

    async def _upload(self, connection: Connection) -> None:
        """Send the rest of a body that comes bit by bit, while the response is waited for already."""
        timeout = self._plan.write_timeout
        try:
            while self._more:
                message = await self._client.receive()
                if message["type"] != "http.request":
                    return
                self._more = message["more_body"]
                if piece := message["body"]:
                    self._recording.request_body(piece)
                    await connection.write(self._framed(piece), timeout)
            if self._plan.chunked:
                await connection.write(LAST_CHUNK, timeout)
            connection.sending = False
        except httpx2.TransportError as exc:
            connection.fail(exc)

    def _framed(self, piece: bytes) -> bytes:
        return chunk(piece) if self._plan.chunked and piece else piece

    # -- and back

    def _watch(self, connection: Connection) -> None:
        connection.watch(self._response_came, self._piece_came, self._plan.read_timeout)

    def _piece_came(self, piece: bytes) -> None:
        """What `_response_came` comes to for all of a stream but its beginning and its end."""
        try:
            self._recording.response_body(piece)
            if (drained := self._client.write(piece, True)) is not None:
                self._wait_for(drained)
        except Exception as exc:  # as `_step` does, without a call for each piece
            self.broken(exc)

    @_step
    def _response_came(self) -> None:
        connection, client = self._connection, self._client
        assert connection is not None
        recorded = None
        if not self._started:
            if not connection.head_complete:
                assert connection.failure is not None
                self._failed(connection.failure)
                return
            status = connection.status
            if (wrong := wrong_status(status)) is not None:
                self._failed(wrong)
                return
            self._started = True
            lines, recorded = self._tee.response_fields.lines(connection.headers, status)
            self._head = status, [b"HTTP/1.1 %d %b" % (status, connection.reason), *lines], connection.length
        ended, failed = connection.complete, connection.failure
        piece = connection.take() if connection.readable else b""
        if recorded is None:
            if piece:
                self._recording.response_body(piece)
        elif ended:
            self._recording.whole_response(connection.status, recorded, piece)
        else:
            self._recording.response_lines(connection.status, recorded)
            self._recording.response_body(piece)
        if ended:
            # Before the client has the last byte the exchange is on disk: promise 1.
            self._connection = None
            self._last = piece
            if self._task is not None:
                self._task.cancel()  # nobody waits for the rest of the request any more
            if not self._recording.when_complete(self._complete):
                self._start(self._complete_for_sure())
            return
        if self._head is not None:
            self._start_response()
        drained = None
        if piece:
            drained = client.write(piece, True)
        else:
            client.flush()
        if failed is not None:
            self._failed(failed)
        elif drained is not None:
            self._wait_for(drained)

    def _wait_for(self, drained: asyncio.Future[None]) -> None:
        """The client does not read: nor do we, and TCP tells the upstream."""
        connection = self._connection
        if connection is not None:
            connection.unwatch()
            drained.add_done_callback(self._client_reads)

    def _start_response(self) -> None:
        assert self._head is not None
        self._client.start(*self._head)
        self._head = None

    def _client_reads(self, drained: asyncio.Future[None]) -> None:
        connection = self._connection
        if connection is not None:
            self._watch(connection)
            if connection.readable or connection.failure is not None:
                self._response_came()

    async def _complete_for_sure(self) -> None:
        try:
            await self._recording.complete()
        except SpoolError as exc:
            # Without its last byte the client knows that it failed.
            if self._head is None:
                self._client.fail()
                self._leave()
            else:
                self._answer(spool_unavailable(exc))
        else:
            self._complete()

    @_step
    def _complete(self) -> None:
        if not self._over:
            if self._head is not None:
                self._start_response()
            self._client.write(self._last, False)
            self._leave()

    # -- the ends

    def _failed(self, exc: httpx2.TransportError) -> None:
        learns = failure(exc, self._plan.upstream, self._recording, response_started=self._started)
        if isinstance(learns, ProxyError):
            self._answer(learns)
        else:
            self._client.fail()
            self._leave()

    def _client_gone(self) -> None:
        if not self._over:
            self._recording.end("client_gone")
            self._leave()

    def cancel(self, msg: str | None = None) -> None:
        """The server's grace is over."""
        # Not at once: the server is going through all that it cancels.
        asyncio.get_running_loop().call_soon(self._interrupted)

    def _interrupted(self) -> None:
        if not self._over and self._recording.outcome is None:
            self._give_up()

    def broken(self, exc: BaseException) -> None:
        """A step has raised what none should: the client gets a whole response or a broken connection all the same."""
        logger.error("Exception in forwarding\n", exc_info=exc)
        if not self._over:
            self._give_up()

    def _give_up(self) -> None:
        self._recording.end("interrupted")
        self._client.fail()
        self._leave()

    def _answer(self, error: ProxyError) -> None:
        self._tee.metrics.refused[error.code] += 1
        self._client.answer(error)
        self._leave()

    def _leave(self) -> None:
        self._over = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._client.leave()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(coroutine)
        self._task.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.broken(exc)


def _with_length(around: tuple[bytes, bytes], length: bytes | None) -> bytes:
    before, after = around
    return before + length + after if length is not None else before
