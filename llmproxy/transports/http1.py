"""A fast HTTP/1.1 client as an httpx2 transport, for upstreams that are spoken to directly.

httpx2's own transport (httpcore2) is complete, and stays in use for HTTP and SOCKS proxies; it costs ten times as much
per request, and it looks at all its idle sockets for each one, which breaks down at hundreds of streams.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx2

from llmproxy.headers import Headers
from llmproxy.transports.connection import Connection
from llmproxy.transports.race import connect
from llmproxy.transports.raw_headers import RawHeaders
from llmproxy.transports.turns import Turns

KEEPALIVE_SECONDS = 30.0
MAX_KNOWN_URLS = 256
LAST_CHUNK = b"0\r\n\r\n"


class HTTP1Transport(httpx2.AsyncBaseTransport):
    """Sends requests over pooled connections, without a limit on their number.

    - `ssl_context`: for https; by default httpx2's, which trusts what the system trusts, or `SSL_CERT_FILE`.
    - `keepalive_expiry`: seconds after which an idle connection is closed.

    It honours the request's extensions `timeout` (`connect` covers name, TCP and TLS together; `read` is the silence
    between two reads, before the head too) and `target` (sent verbatim in place of the URL's path and query). Header
    fields are sent as given, in order; a body whose framing they do not name gets one. A request is never sent twice.
    Raises httpx2's `TransportError`s, from `handle_async_request` and from the response's stream.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, keepalive_expiry: float = KEEPALIVE_SECONDS
    ) -> None:
        self._ssl_context = ssl_context
        self._keepalive_expiry = keepalive_expiry
        self._pools: dict[tuple[str, str, int | None], Pool] = {}
        self._known: dict[int, tuple[httpx2.URL, Pool]] = {}
        self._turns = Turns()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        pool = self.pool_of(request.url)
        timeout = request.extensions.get("timeout") or {}
        head, body, chunked = _prepare(request)
        connection = pool.take() or await pool.open(timeout.get("connect"))
        upload: asyncio.Task[None] | None = None
        try:
            if body is None:
                connection.begin(request.method, head, b"")
                connection.sending = True
                upload = asyncio.get_running_loop().create_task(
                    _upload(connection, request, chunked, timeout.get("write"))
                )
            else:
                connection.begin(request.method, head, body)
            await connection.wait_head(timeout.get("read"))
        except BaseException:
            connection.abort()
            if upload is not None:
                upload.cancel()
            raise
        stream = _ResponseStream(connection, timeout.get("read"), upload)
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": connection.reason}
        return _Response(connection.status, RawHeaders(connection.headers), stream, extensions)

    async def aclose(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._known.clear()
        await asyncio.sleep(0)  # so that the transports close their sockets while there is a loop to do it

    def pool_of(self, url: httpx2.URL) -> "Pool":
        """The connections to a URL's origin, for `direct`. Raises `httpx2.UnsupportedProtocol`."""
        # An upstream's URL is the same object each time, and to ask it for its parts costs more than to know it again.
        known = self._known.get(id(url))
        if known is not None and known[0] is url:
            return known[1]
        origin = (url.scheme, url.host, url.port)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = self._pool(*origin)
        if len(self._known) >= MAX_KNOWN_URLS:
            self._known.clear()
        self._known[id(url)] = (url, pool)
        return pool

    def _pool(self, scheme: str, host: str, port: int | None) -> "Pool":
        if scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol(f"{scheme} is not supported")
        context = None
        if scheme == "https":
            if self._ssl_context is None:
                self._ssl_context = httpx2.create_ssl_context()
            context = self._ssl_context
        return Pool(host, port or (443 if context else 80), context, self._keepalive_expiry, self._turns)


class Pool:
    """The connections to one origin. The idle ones lie in the order in which they became so; the last is used first.

    Whoever takes or opens one has it until its exchange ends well, or aborts it.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, expiry: float, turns: Turns) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._expiry = expiry
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """An idle connection."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.abort()
        return None

    async def open(self, timeout: float | None) -> Connection:
        """A new connection, within `timeout` seconds. Raises `httpx2.ConnectError` and `httpx2.ConnectTimeout`."""
        peer = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(timeout):
                connection = await connect(
                    lambda: Connection(peer, self._turns, self._free, self._forget),
                    self._host,
                    self._port,
                    self._context,
                )
        except TimeoutError:
            raise httpx2.ConnectTimeout(f"no connection to {peer} in {timeout:g} seconds") from None
        except ssl.SSLError as exc:  # also what fails to verify
            raise httpx2.ConnectError(f"TLS with {peer} failed: {exc.reason or exc}") from exc
        except OSError as exc:
            raise httpx2.ConnectError(f"no connection to {peer}: {exc.strerror or exc}") from exc
        self._all.add(connection)
        return connection

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._all):
            connection.abort()

    def _free(self, connection: Connection) -> None:
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(self._expiry, self._expire)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        try:
            self._idle.remove(connection)
        except ValueError:
            pass  # it was in use

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._idle and self._idle[0].idle_since + self._expiry <= now:
            self._idle.popleft().close()
        if self._idle:
            self._timer = self._loop.call_at(self._idle[0].idle_since + self._expiry, self._expire)


class _ResponseStream(httpx2.AsyncByteStream):
    """The response's body, in the pieces in which it was read."""

    def __init__(self, connection: Connection, timeout: float | None, upload: asyncio.Task[None] | None) -> None:
        self._connection: Connection | None = connection
        self._timeout = timeout
        self._upload = upload

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        if connection is None:
            raise StopAsyncIteration
        piece = connection.take() if connection.readable else await connection.read(self._timeout)
        if connection.ended:
            self._let_go()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        connection = self._connection
        self._let_go()
        if connection is not None:
            if connection.ended:
                connection.finish()
            else:
                connection.abort()

    def _let_go(self) -> None:
        self._connection = None
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    async def __aenter__(self) -> Self:
        return self


class _Response(httpx2.Response):
    """A response of parts that are known to be good: httpx2's constructor makes header fields and copies each part."""

    default_encoding = "utf-8"
    next_request = None
    is_closed = False
    is_stream_consumed = False
    _request = None
    _num_bytes_downloaded = 0

    def __init__(
        self, status_code: int, headers: httpx2.Headers, stream: httpx2.AsyncByteStream, extensions: dict[str, Any]
    ) -> None:
        self.status_code = status_code
        self.headers = headers
        self.stream = stream
        self.extensions = extensions
        self.history = []


def _prepare(request: httpx2.Request) -> tuple[bytes, bytes | None, bool]:
    """The request's head, its whole body where it is known (else None), and whether the body is sent in chunks."""
    fields = request.headers.raw
    framed = chunked = False
    for name, _ in fields:
        length = len(name)
        if length == 14 and name.lower() == b"content-length":
            framed = True
        elif length == 17 and name.lower() == b"transfer-encoding":
            framed = chunked = True
    body = next(iter(request.stream)) if type(request.stream) is httpx2.ByteStream else None
    if not framed and body is None:
        chunked = True
        fields = [*fields, (b"Transfer-Encoding", b"chunked")]
    elif not framed and body:
        fields = [*fields, (b"Content-Length", b"%d" % len(body))]
    target: bytes = request.extensions.get("target") or request.url.raw_path
    head = request_head(request.method, target, fields)
    if body is not None and chunked:
        body = in_chunks(body)
    return head, body, chunked


def request_head(method: str, target: bytes, fields: Headers) -> bytes:
    """A request's head as bytes. Raises `httpx2.LocalProtocolError` for parts that would begin another line (RFC 9112
    section 11.1)."""
    first = b"%b %b HTTP/1.1" % (method.encode("ascii", "replace"), target)
    head = b"\r\n".join([first, *[name + b": " + value for name, value in fields], b"", b""])
    count = len(fields) + 2
    if (
        head.count(b"\n") != count
        or head.count(b"\r") != count
        or b"\0" in head
        or head.count(b" ", 0, len(first)) != 2
    ):
        raise httpx2.LocalProtocolError("the request's method, target or header fields hold a line break, space or NUL")
    return head


def in_chunks(body: bytes) -> bytes:
    """A whole body in the coding of RFC 9112 section 7.1."""
    return chunk(body) + LAST_CHUNK if body else LAST_CHUNK


def chunk(piece: bytes) -> bytes:
    """A piece of a body, which is not empty, in that coding."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _upload(connection: Connection, request: httpx2.Request, chunked: bool, timeout: float | None) -> None:
    """Send a body that comes bit by bit, while the response is waited for already."""
    stream = request.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    expected = None if chunked else int(request.headers["content-length"])
    sent = 0
    try:
        async for piece in stream:
            sent += len(piece)
            if expected is not None and sent > expected:
                break
            if piece:
                await connection.write(chunk(piece) if chunked else piece, timeout)
        if expected is not None and sent != expected:
            raise httpx2.LocalProtocolError(f"the body has {sent} bytes where its Content-Length says {expected}")
        if chunked:
            await connection.write(LAST_CHUNK, timeout)
        connection.sending = False
    except httpx2.TransportError as exc:
        connection.fail(exc)
