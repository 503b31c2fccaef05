"""The server's side of HTTP/1.1: raw bytes in, raw bytes out, whatever the client and the app do."""

import asyncio
import ctypes
import itertools
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmproxy.app import App
from llmproxy.client import Heads, client_of
from llmproxy.config import Config
from llmproxy.server.protocol import HEAD_BYTES, HTTPProtocol
from llmproxy.server.server import keep_freed_memory
from tests.proxy import app_in_thread, eventually
from tests.raw_upstream import Connection, RawRequest, answer, raw_upstream
from tests.wire import on_a_wire, read_until, split, steps


async def body_of(receive: Any) -> bytes | None:
    """The request's body; None where its client went away before it was whole."""
    body, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body.append(message["body"])
        more = message["more_body"]
    return b"".join(body)


async def say(send: Any, text: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, target and body."""
    if scope["type"] != "http" or (body := await body_of(receive)) is None:
        return
    client = client_of(scope)
    assert client is not None
    await say(send, b"%b %b %b" % (scope["method"].encode(), client.target, body))


@contextmanager
def connected(app: Any, **settings: Any) -> Iterator[socket.socket]:
    with app_in_thread(app, **settings) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        yield sock


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := sock.recv(1 << 20):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def exchange(app: Any, request: bytes, **settings: Any) -> bytes:
    """All that comes back for some bytes, until the server closes."""
    with connected(app, **settings) as sock:
        sock.sendall(request)
        return read_all(sock)


REQUESTS = (
    b"POST /a?x=%20 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /b? HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n"
    b"GET /c HTTP/1.1\r\nHost: h\r\n\r\n"
    b"\r\nPUT /d HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
ANSWERS = [b"POST /a?x=%20 hello", b"POST /b? abcdefg", b"GET /c ", b"PUT /d "]


@given(cuts=st.lists(st.integers(0, len(REQUESTS)), max_size=12), at_once=st.booleans())
@settings(max_examples=80)
def test_requests_however_they_are_split(cuts: list[int], at_once: bool) -> None:
    async def run() -> bytes:
        server, _, wire = on_a_wire(echo)
        for piece in split(REQUESTS, cuts):
            server.data_received(piece)
            if not at_once:
                await asyncio.sleep(0)
        await steps(100)
        assert wire.closed and not server.tasks
        server.connection_lost(None)
        return wire.written

    parts = asyncio.run(run()).split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [part.partition(b"\r\n\r\n")[2] for part in parts] == ANSWERS
    assert [b"connection: close" in part for part in parts] == [False, False, False, True]


@given(data=st.lists(st.sampled_from([REQUESTS[:80], b"\r\n", b"\0", b"GET / HTTP/1.1\r\n", b":", b"0", b"x" * 300])))
@settings(max_examples=60)
def test_no_bytes_break_the_server(data: list[bytes]) -> None:
    async def run() -> None:
        server, state, wire = on_a_wire(echo)
        for piece in data:
            if not wire.closed:
                server.data_received(piece)
            await asyncio.sleep(0)
        server.connection_lost(None)
        await steps(20)
        assert not server.tasks and not state.connections
        assert wire.written == b"" or wire.written.startswith(b"HTTP/1.1 ")

    asyncio.run(run())


async def echo_all(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the request as the app has it."""
    client = client_of(scope)
    assert client is not None
    assert scope["headers"] == [(name.lower(), value) for name, value in client.fields]
    body = await body_of(receive)
    await say(send, b"%b %b %r %r" % (scope["method"].encode(), client.target, client.fields, body))


HEADS = [
    b"POST %b HTTP/1.1\r\nHost: h\r\n%b\r\nX-A: 1\r\n\r\n" % each
    for each in (
        (b"/a", b"Content-Length: %d"),
        (b"/b", b"content-length:%d"),
        (b"/c", b"Content-Length:\t%d \t"),
        (b"/d", b"Content-Length: 00%d"),
        (b"/a", b"Content-Length: %d\r\nX-B: 2"),
    )
]
BODILESS = b"GET /e HTTP/1.1\r\nHost: h\r\n\r\n"
BODIES = (b"", b"x", b"\r\n\r\n", b"y" * 300, HEADS[0] % 0)


def served(app: Any, pieces: Iterable[bytes], answers: int, *, at_once: bool = False) -> bytes:
    """What one connection answers to what it reads."""

    async def run() -> bytes:
        server, _, wire = on_a_wire(app)
        for piece in pieces:
            server.data_received(piece)
            await steps(0 if at_once else 10)
        async with asyncio.timeout(10):
            while wire.written.count(b"HTTP/1.1 ") < answers:
                await asyncio.sleep(0)
        server.connection_lost(None)
        return wire.written

    return asyncio.run(run())


@given(
    requests=st.lists(
        st.tuples(st.sampled_from((0, 0, 0, 1, 2, 3, 4, None)), st.sampled_from(BODIES)), min_size=1, max_size=12
    ),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    whole=st.sets(st.integers(0, 11)),
    at_once=st.booleans(),
)
@example([(0, b"x"), (0, b""), (4, b"x"), (0, b"x")], [], {0, 1, 2}, False)
@example([(0, b"x"), (None, b"")] * 4, [], {1, 3, 5}, False)
@settings(max_examples=150)
def test_requests_that_begin_alike(
    requests: list[tuple[int | None, bytes]], cuts: list[int], whole: set[int], at_once: bool
) -> None:
    data = [HEADS[which] % len(body) + body if which is not None else BODILESS for which, body in requests]
    ends = list(itertools.accumulate(map(len, data)))
    # Some reads end where a request does, others anywhere.
    pieces = list(split(b"".join(data), [*cuts, *(ends[each] for each in whole if each < len(ends))]))
    apart = b"".join(served(echo_all, [each], 1) for each in data)
    assert served(echo_all, pieces, len(data), at_once=at_once) == apart


class CountingHeads(Heads):
    """Counts what came through the parser."""

    parsed = 0

    def get(self, *parts: Any) -> Any:
        self.parsed += 1
        return super().get(*parts)


class EchoWithHeads:
    def __init__(self) -> None:
        self.heads = CountingHeads()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)


@pytest.mark.parametrize("apart", [False, True])
def test_a_head_that_comes_again_is_not_parsed_again(apart: bool) -> None:
    app = EchoWithHeads()
    bodies = [b"a", b"bc", b"d" * 1000, b"", b"e" * 2_000_000, b"f"]
    requests = [(HEADS[0] % len(body), body) for body in bodies]
    pieces = [piece for request in requests for piece in (request if apart else (b"".join(request),)) if piece]
    too_long = HEADS[0].replace(b"%d", b"9" * 40)
    answers = served(app, [*pieces, too_long], len(bodies) + 1)
    assert answers.count(b"HTTP/1.1 200 ") == len(bodies)
    assert b"HTTP/1.1 400 " in answers
    assert app.heads.parsed == 2


def test_pipelined_requests_are_answered_in_order_by_one_app_at_a_time() -> None:
    running = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            running.append(scope["path"])
            assert len(running) == 1
            await asyncio.sleep(0.01)
            await echo(scope, receive, send)
            running.remove(scope["path"])

    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(5))
    got = exchange(app, requests + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert [line for line in got.replace(b"HTTP/1.1", b"\r\nHTTP/1.1").split(b"\r\n") if line.startswith(b"GET ")] == [
        b"GET /%b " % name for name in (b"0", b"1", b"2", b"3", b"4", b"last")
    ]


REFUSED: list[tuple[bytes, int]] = [
    (b"rubbish\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET / HTTP/3.7\r\nHost: h\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n folded: 1\r\nX\r\n\r\n", 400),
    # RFC 9112 section 6.3: two framings are how requests are smuggled.
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    (b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 10_000 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nX-Y: " + b"z" * 10_000_000, 431),
]


def test_what_is_no_request_is_refused_and_the_neighbour_is_served() -> None:
    with app_in_thread(echo) as port, socket.create_connection(("127.0.0.1", port), timeout=60) as neighbour:
        for rubbish, status in REFUSED:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                try:
                    sock.sendall(rubbish)
                except ConnectionError:
                    pass  # it does not read us to the end
                got = read_all(sock)
            assert got == b"" or got.startswith(b"HTTP/1.1 %d " % status), (rubbish[:80], got[:200])
            assert got or len(rubbish) > 1_000_000, "only what is sent on after the answer may reset it"
            assert got.count(b"HTTP/1.1 ") <= 1
            neighbour.sendall(b"GET /n HTTP/1.1\r\nHost: h\r\n\r\n")
            assert read_until(neighbour, b"GET /n ").startswith(b"HTTP/1.1 200 ")


def test_rubbish_behind_a_request_is_answered_once() -> None:
    """What cannot be told apart is not half believed."""
    got = exchange(echo, b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nokrubbish\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1


def test_a_broken_body_is_refused() -> None:
    with connected(echo) as sock:
        sock.sendall(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
        sock.sendall(b"lo\r\nrubbish\r\n")
        got = read_all(sock)
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1 ") == 1


def test_a_large_head_within_the_limit_passes() -> None:
    filler = b"x" * (HEAD_BYTES - 2000)
    body = b"y" * 200_000
    request = b"POST /a HTTP/1.1\r\nHost: h\r\nX: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    assert exchange(echo, request % (filler, len(body), body)).endswith(body)


def test_the_head_is_sent_as_the_app_gives_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"X-Mixed-Case", b"1"), (b"x-b", b""), (b"X-Mixed-Case", b"2"), (b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 299, "headers": headers, "reason": b"As Said"})
            await send({"type": "http.response.body", "body": b"ok"})

    got = exchange(app, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert got == (
        b"HTTP/1.1 299 As Said\r\nX-Mixed-Case: 1\r\nx-b: \r\nX-Mixed-Case: 2\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\nok"
    )


@pytest.mark.parametrize(
    ("request_line", "status", "expected"),
    [
        (
            b"GET / HTTP/1.1",
            200,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        ),
        (b"GET / HTTP/1.0", 200, b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo"),
        (b"HEAD / HTTP/1.1", 200, b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET / HTTP/1.1", 204, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET / HTTP/1.1", 304, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
)
def test_framing_of_a_body_without_a_length(request_line: bytes, status: int, expected: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": status})
            if status == 200:
                await send({"type": "http.response.body", "body": b"one", "more_body": True})
                await asyncio.sleep(0.01)
                await send({"type": "http.response.body", "body": b"two", "more_body": True})
            await send({"type": "http.response.body"})

    with connected(app) as sock:
        sock.sendall(request_line + b"\r\nHost: h\r\n\r\n")
        assert read_until(sock, expected[-4:]) == expected
        if b"1.1" in request_line:  # and the connection is good for another
            sock.sendall(request_line + b"\r\nHost: h\r\n\r\n")
            assert read_until(sock, expected[-4:]) == expected


def test_http_1_0_is_answered_and_closed() -> None:
    assert exchange(echo, b"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nok").endswith(b"POST /a ok")


def test_the_head_does_not_wait_for_the_body() -> None:
    body = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await asyncio.to_thread(body.wait)
            await send({"type": "http.response.body", "body": b"late"})

    with connected(app) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        body.set()
        assert read_until(sock, b"late") == b"late"


def test_expect_100_continue() -> None:
    with connected(echo) as sock:
        head = b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        sock.sendall(head)
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"ok")
        assert read_all(sock).endswith(b"POST /a ok")


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(b"POST /a HTTP/1.0", id="in HTTP/1.0 it is ignored"),
        pytest.param(b"POST /a HTTP/1.1", id="the body is there already"),
    ],
)
def test_100_continue_that_nobody_waits_for(request_line: bytes) -> None:
    head = b"\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    with connected(echo) as sock:
        if b"1.1" in request_line:
            sock.sendall(request_line + head + b"ok")
        else:
            sock.sendall(request_line + head)
            sock.sendall(b"ok")
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_the_app_does_not_want_is_passed_over() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"no"})

    with connected(app) as sock:
        for _ in range(2):
            sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
            assert read_until(sock, b"no").startswith(b"HTTP/1.1 413 ")
            sock.sendall(b"x" * 1_000_000)


def test_an_upgrade_that_nobody_offers_is_passed_over() -> None:
    request = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    got = exchange(echo, request + b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert got.endswith(b"GET /b ") and b"GET /a " in got and got.count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", b""),  # idle
        (b"GET / HT", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"HTTP/1.1 408 "),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhal", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"HTTP/1.1 200 "),  # idle behind a response
    ],
)
def test_who_is_slow_is_let_go(monkeypatch: pytest.MonkeyPatch, sent: bytes, expected: bytes) -> None:
    for name in ("head_seconds", "body_seconds"):
        monkeypatch.setattr(HTTPProtocol, name, 0.1)
    with connected(echo, timeout_keep_alive=0.1) as sock:
        sock.sendall(sent)
        got = read_all(sock)
    assert got.startswith(expected) and bool(got) == bool(expected)


def test_a_head_that_comes_byte_by_byte_has_no_more_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HTTPProtocol, "head_seconds", 0.2)
    with connected(echo) as sock:
        sock.settimeout(0.02)
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        deadline = time.monotonic() + 10
        got = b""
        while time.monotonic() < deadline and not got:
            try:
                sock.sendall(b"x")
                got = sock.recv(65536)
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_holds_the_app_back() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            for _ in range(2000):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                sent += 65536

    with connected(app, grace=0.1) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        before = -1
        while sent == 0 or before != sent:
            before = sent
            time.sleep(0.1)
        assert sent < 50 * 1024 * 1024, "what the sockets' buffers take"


def test_an_app_that_does_not_read_holds_the_client_back() -> None:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.to_thread(go.wait)
            await echo(scope, receive, send)

    size = 32 * 1024 * 1024
    with connected(app) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
        sock.setblocking(False)
        sent = 0
        try:
            for _ in range(size // 65536):
                deadline = time.monotonic() + 0.3
                while time.monotonic() < deadline:
                    try:
                        sent += sock.send(b"x" * min(65536, size - sent))
                        break
                    except BlockingIOError:
                        time.sleep(0.01)
                else:
                    break
        finally:
            go.set()
        assert sent < size // 2
        sock.setblocking(True)
        sock.settimeout(20)
        while sent < size:
            sent += sock.send(b"x" * min(1 << 20, size - sent))
        assert len(read_all(sock)) > size


@pytest.mark.parametrize("begun", [False, True])
def test_an_app_that_fails_gives_no_whole_response(begun: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if begun:
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"some", "more_body": True})
            raise ValueError("on purpose")

    got = exchange(app, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    if begun:
        assert got.endswith(b"4\r\nsome\r\n"), "no last chunk"
    else:
        assert got.startswith(b"HTTP/1.1 500 ") and got.endswith(b"Internal Server Error")


def test_a_header_that_would_begin_another_is_not_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"1\r\nset-cookie: a=1")]})

    assert exchange(app, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").startswith(b"HTTP/1.1 500 ")


def test_limit_concurrency() -> None:
    got = exchange(echo, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", limit_concurrency=1)
    assert got.startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("http", ["httptools", HTTPProtocol])
def test_the_app_serves_and_notices_a_disconnect_under_any_server(tmp_path: Path, http: Any) -> None:
    """Under uvicorn's own protocol class there is nobody to tell of a disconnect, and a task waits for it."""

    def handler(connection: Connection, request: RawRequest) -> bool | None:
        if b"/slow" in request.request_line:
            return connection.wait_closed()
        connection.send(answer(request.body))
        return True

    with raw_upstream(handler) as up:
        app = App(
            Config.model_validate(
                {
                    "upstreams": {"up": {"base_url": f"{up.url}/v1"}},
                    "capture": {"database": tmp_path / "logs.db", "spool": tmp_path / "spool"},
                }
            )
        )
        with app_in_thread(app, http=http) as port:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
                assert read_until(sock, b"body").startswith(b"HTTP/1.1 200 ")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                sock.sendall(b"POST /v1/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
                eventually(lambda: len(up.requests) == 2, "the request upstream")
            eventually(lambda: app.metrics.exchanges[("up", "client_gone", 0)] == 1, "the end")
        assert app.metrics.in_flight == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: of what a large piece took, the next one gets the same pages."""
    script = """
import resource
from llmproxy.server.server import keep_freed_memory
assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
[bytes(250_000) for _ in range(8)]
before = faults()
for _ in range(50):
    pieces = [bytes(250_000) for _ in range(8)]
    del pieces
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 900, "without it, three times as many"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
