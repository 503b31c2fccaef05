"""The HTTP/1.1 transport against a server that scripts every byte; what both can do, httpx2's own is held to too."""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
import trustme
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.transports.connection import MAX_HEAD_BYTES
from llmproxy.transports.http1 import HTTP1Transport

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TIMEOUT = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": None}


def run(test: Callable[[], Awaitable[None]], loop: str = "uvloop") -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(_settled(test))


async def _settled(test: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(20):
        await test()
    for _ in range(200):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if not others:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"tasks are left over: {others}")


class Served:
    """A server on a free port, which counts its connections and knows when one is closed."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._context = context
        self.connections = 0
        self.closed = asyncio.Semaphore(0)

    async def __aenter__(self) -> "Served":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.closed.release()

    def request(self, method: str = "GET", body: Any = b"", headers: Any = (), **extensions: Any) -> httpx2.Request:
        scheme = "https" if self._context else "http"
        stream = httpx2.ByteStream(body) if isinstance(body, bytes) else body
        request = httpx2.Request(
            "GET",
            f"{scheme}://127.0.0.1:{self.port}/",
            headers=[(b"host", b"test"), *headers],
            stream=stream,
            extensions={"timeout": TIMEOUT, **extensions},
        )
        request.method = method
        return request


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def scripted(*answers: bytes, close: bool = True) -> Handler:
    """Answers each request of a connection with the next bytes; then closes, or waits to be closed."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head(reader)
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()

    return handler


async def exchange(transport: httpx2.AsyncBaseTransport, request: httpx2.Request) -> tuple[int, bytes]:
    response = await transport.handle_async_request(request)
    try:
        return response.status_code, b"".join([piece async for piece in response.stream])  # type: ignore[union-attr]
    finally:
        await response.aclose()


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """What other tests left in memory is not gone through with each collection here."""
    gc.freeze()
    yield
    gc.unfreeze()


both = pytest.mark.parametrize("make", [HTTP1Transport, httpx2.AsyncHTTPTransport], ids=["ours", "httpx2's"])
both_loops = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])

FRAMINGS = [
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", (200, b"hello")),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, b"")),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", (200, b"hello")),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\nh\r\n0\r\nX-T: 1\r\n\r\n", (200, b"h")),
    ("GET", b"HTTP/1.1 200 OK\r\n\r\nhello", (200, b"hello")),
    ("GET", b"HTTP/1.0 200 OK\r\n\r\nhello", (200, b"hello")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, b"")),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"")),
    ("GET", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", (200, b"x")),
    ("GET", b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", (200, b"x")),
]  # fmt: skip


@both
@pytest.mark.parametrize(("method", "answer", "expected"), FRAMINGS)
def test_framing(make: Any, method: str, answer: bytes, expected: tuple[int, bytes]) -> None:
    async def test() -> None:
        async with Served(scripted(answer)) as server, make() as transport:
            assert await exchange(transport, server.request(method)) == expected

    run(test)


# White space before an extension (RFC 9112 section 7.1.1), and what old servers pad with; httpx2's refuses the first.
PADDED = [
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 ;x=y\r\nh\r\n1  \r\ni\r\n0 \r\n\r\n", (200, b"hi"))
]


@both_loops
@pytest.mark.parametrize(("method", "answer", "expected"), [*FRAMINGS, *PADDED])
def test_framing_however_it_is_split(loop: str, method: str, answer: bytes, expected: tuple[int, bytes]) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            assert await exchange(transport, server.request(method)) == expected

    run(test, loop)


REFUSED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nContent-",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n" * 50,
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 10) + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nbroken\x00name: 1\r\n\r\n",
]


@both_loops
@pytest.mark.parametrize("answer", REFUSED, ids=lambda answer: repr(answer[:40]))
def test_what_is_no_http_is_refused(loop: str, answer: bytes) -> None:
    async def test() -> None:
        async with Served(scripted(answer)) as server, HTTP1Transport() as transport:
            with pytest.raises(httpx2.RemoteProtocolError):
                await exchange(transport, server.request())
            assert server.connections == 1

    run(test, loop)


@both
def test_a_connection_is_reused_and_a_closed_one_is_not(make: Any) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"

    async def test() -> None:
        async with Served(scripted(ok, ok)) as server, make() as transport:
            for _ in range(2):
                assert await exchange(transport, server.request()) == (200, b"x")
            assert server.connections == 1
            await server.closed.acquire()
            assert await exchange(transport, server.request()) == (200, b"x")
            assert server.connections == 2

    run(test)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
    ],
)
def test_connections_that_must_not_be_reused(first: bytes) -> None:
    async def test() -> None:
        async with Served(scripted(first, close=False)) as server, HTTP1Transport() as transport:
            for _ in range(2):
                assert await exchange(transport, server.request()) == (200, b"x")
            assert server.connections == 2

    run(test)


def test_a_body_behind_the_answer_to_head_is_dropped_with_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    async def test() -> None:
        async with Served(scripted(answer, close=False)) as server, HTTP1Transport() as transport:
            for _ in range(2):
                assert await exchange(transport, server.request("HEAD")) == (200, b"")
            assert server.connections == 2

    run(test)


def test_after_head_the_connection_is_reused() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

    async def test() -> None:
        async with Served(scripted(answer, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")) as server:
            async with HTTP1Transport() as transport:
                assert await exchange(transport, server.request("HEAD")) == (200, b"")
                assert await exchange(transport, server.request()) == (200, b"x")
                assert server.connections == 1

    run(test)


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\n", 2),
        (b"HTTP/1.1 200 OK\r\nConnection: not-close\r\n", 1),
        (b"HTTP/1.0 200 OK\r\n", 2),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", 1),
    ],
)
def test_after_head_the_connection_is_reused_where_it_persists(first: bytes, connections: int) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await head(reader)) is not None:
            writer.write(first + b"Content-Length: 5\r\n\r\n" if request.startswith(b"HEAD") else ok)
            await writer.drain()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            assert await exchange(transport, server.request("HEAD")) == (200, b"")
            assert await exchange(transport, server.request()) == (200, b"x")
            assert server.connections == connections

    run(test)


@pytest.mark.parametrize("end", [b"0\r\nX: ", b"0\r\n", b"1;x="])
def test_what_is_no_body_has_an_end(end: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" + end)
        while True:
            writer.write(b"y: y\r\n" * 100 if end == b"0\r\n" else b"y" * 1000)
            await writer.drain()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            with pytest.raises(httpx2.RemoteProtocolError, match="trailers of more than"):
                await exchange(transport, server.request())
            await server.closed.acquire()

    run(test)


def test_idle_connections_expire() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"

    async def test() -> None:
        async with Served(scripted(ok, close=False)) as server, HTTP1Transport(keepalive_expiry=0.05) as transport:
            await exchange(transport, server.request())
            await server.closed.acquire()  # nobody asked for another

    run(test)


def test_the_request_is_sent_as_given() -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await head(reader) + await reader.readexactly(2))
        writer.write(b"HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\nContent-Length: 0\r\n\r\n")

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            headers = [(b"X-B", b"1"), (b"x-a", b"\xff"), (b"X-B", b"2"), (b"Content-Length", b"2")]
            request = server.request("mEtHoD", b"{}", headers, target=b"/a%2Fb/../c?x=%20")
            response = await transport.handle_async_request(request)
            await response.aclose()
            assert response.headers.raw == [(b"X-B", b"1"), (b"x-a", b"2"), (b"X-B", b"3"), (b"Content-Length", b"0")]

    run(test)
    assert seen == [
        b"mEtHoD /a%2Fb/../c?x=%20 HTTP/1.1\r\nhost: test\r\nX-B: 1\r\nx-a: \xff\r\nX-B: 2\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    ]


@pytest.mark.parametrize(
    ("method", "headers", "target"),
    [
        ("GET", [(b"X", b"1\r\nY: 2")], b"/"),
        ("GET", [(b"X", b"1\nY: 2")], b"/"),
        ("GET", [(b"X\r\n", b"1")], b"/"),
        ("GET", [(b"X", b"\0")], b"/"),
        ("GET / HTTP/1.1\r\nX: 1", [], b"/"),
        ("GET", [], b"/ HTTP/1.1\r\nX: 1"),
        ("GET", [], b"/a b"),
    ],
)
def test_nothing_can_be_smuggled_into_the_head(method: str, headers: Any, target: bytes) -> None:
    async def test() -> None:
        async with Served(scripted()) as server, HTTP1Transport() as transport:
            with pytest.raises(httpx2.LocalProtocolError):
                await transport.handle_async_request(server.request(method, b"", headers, target=target))
            assert server.connections == 0

    run(test)


class Pieces(httpx2.AsyncByteStream):
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await asyncio.sleep(0)
            yield piece


@pytest.mark.parametrize(
    ("body", "headers", "sent"),
    [
        (Pieces(b"he", b"", b"llo"), [], b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        (Pieces(b"he", b"llo"), [(b"Content-Length", b"5")], b"hello"),
        (Pieces(), [(b"Transfer-Encoding", b"chunked")], b"0\r\n\r\n"),
        (b"hello", [(b"Transfer-Encoding", b"chunked")], b"5\r\nhello\r\n0\r\n\r\n"),
        (b"hello", [], b"hello"),
    ],
)
def test_bodies(body: Any, headers: Any, sent: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        assert await reader.readexactly(len(sent)) == sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            assert await exchange(transport, server.request("POST", body, headers)) == (200, b"ok")

    run(test)


@pytest.mark.parametrize("length", [b"3", b"9"])
def test_a_body_of_another_length_than_said_breaks_the_connection(length: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            request = server.request("POST", Pieces(b"he", b"llo"), [(b"Content-Length", length)])
            with pytest.raises(httpx2.LocalProtocolError):
                await transport.handle_async_request(request)
            await server.closed.acquire()

    run(test)


def test_back_pressure_both_ways() -> None:
    size = 8 * 1024 * 1024
    read_by_server = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read_by_server
        await head(reader)
        while read_by_server < size:
            read_by_server += len(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            body = Pieces(*[b"x" * 65536] * (size // 65536))
            response = await transport.handle_async_request(
                server.request("POST", body, [(b"Content-Length", str(size).encode())])
            )
            await asyncio.sleep(0.05)
            received, largest = 0, 0
            async for piece in response.stream:  # type: ignore[union-attr]
                received += len(piece)
                largest = max(largest, len(piece))
            assert received == size
            assert largest < 1024 * 1024, "what nobody reads is not read from the socket"

    run(test)


def test_timeouts() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        await reader.read()

    async def test() -> None:
        for handler in (silent, begun):
            async with Served(handler) as server, HTTP1Transport() as transport:
                request = server.request(timeout={**TIMEOUT, "read": 0.05})
                with pytest.raises(httpx2.ReadTimeout):
                    await exchange(transport, request)
                await server.closed.acquire()

    run(test)


@both_loops
@pytest.mark.parametrize("when", ["head", "body"])
def test_cancelling_closes_the_connection_at_once(loop: str, when: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        if when == "body":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        arrived.set()
        await reader.read()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            task = asyncio.get_running_loop().create_task(exchange(transport, server.request()))
            await arrived.wait()
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.closed.acquire()

    arrived = asyncio.Event()
    run(test, loop)


@both
def test_nobody_listens(make: Any) -> None:
    async def test() -> None:
        async with Served(scripted()) as server:
            request = server.request()
        async with make() as transport:
            with pytest.raises(httpx2.ConnectError):
                await transport.handle_async_request(request)

    run(test)


def test_names_that_do_not_resolve_and_schemes_that_are_not_http() -> None:
    async def test() -> None:
        async with HTTP1Transport() as transport:
            for url, error in (
                ("http://no-such-host.invalid/", httpx2.ConnectError),
                ("ftp://127.0.0.1/", httpx2.UnsupportedProtocol),
            ):
                request = httpx2.Request("GET", url, stream=httpx2.ByteStream(b""), extensions={"timeout": TIMEOUT})
                with pytest.raises(error):
                    await transport.handle_async_request(request)

    run(test)


@both_loops
@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_verified(loop: str, trusted: bool) -> None:
    authority = trustme.CA()
    served, asked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(served)
    if trusted:
        authority.configure_trust(asked)

    async def test() -> None:
        handler = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        async with Served(handler, served) as server, HTTP1Transport(ssl_context=asked) as transport:
            if trusted:
                assert await exchange(transport, server.request()) == (200, b"x")
            else:
                with pytest.raises(httpx2.ConnectError, match="TLS"):
                    await exchange(transport, server.request())

    run(test, loop)


@given(
    answer=st.lists(
        st.sampled_from(
            [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"5\r\n",
             b"hello", b"0\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"\n", b"\0", b"Connection: close\r\n"]
        ) | st.binary(max_size=20),
        max_size=12,
    )
)  # fmt: skip
@settings(max_examples=150)
def test_any_answer_ends_with_a_response_or_an_error_of_httpx2s(answer: list[bytes]) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        for piece in answer:
            writer.write(piece)
            await writer.drain()

    async def test() -> None:
        async with Served(handler) as server, HTTP1Transport() as transport:
            try:
                status, _ = await exchange(transport, server.request())
                assert 200 <= status <= 999
            except httpx2.TransportError:
                pass
            await server.closed.acquire()

    run(test)
    gc.collect()
