"""Clients that mean harm, over raw sockets: bounded and refused, and their neighbours unharmed."""

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.server.cycle import WHOLE_BODY_BYTES
from llmproxy.server.protocol import HTTPProtocol
from tests.proxy import InThread, eventually, proxy_in_thread
from tests.raw_upstream import Connection, RawRequest, RawUpstream, answer, raw_upstream

HOST = b"Host: 127.0.0.1\r\n"
POST = b"POST /v1/x HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
EVIL = b"GET /v1/evil HTTP/1.1\r\n" + HOST + b"\r\n"

REFUSED = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
    "both lengths, the other way": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + EVIL,
    "two codings, the second unknown": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "two codings, the first unknown": POST + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity first": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "a coding that we would drop": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab before chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "an empty coding": POST + b"Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc",
    "chunks in HTTP/1.0": CHUNKED.replace(b"/1.1", b"/1.0") + b"0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "the same length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a length with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": POST + b"Content-Length: -3\r\n\r\nabc",
    "a hexadecimal length": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "a length beyond all": POST + b"Content-Length: 18446744073709551619\r\n\r\nabc",
    "two numbers for a length": POST + b"Content-Length: 3 4\r\n\r\nabc",
    "an empty length": POST + b"Content-Length: \r\n\r\n",
    "a folded field": POST + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a space before the first field": b"POST /v1/x HTTP/1.1\r\n X-A: b\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "bare line feeds": (POST + b"Content-Length: 0\r\n\r\n").replace(b"\r\n", b"\n"),
    "one bare line feed": POST + b"X-A: b\nContent-Length: 0\r\n\r\n",
    "a bare carriage return": POST + b"X-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n",
    "a NUL": POST + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "no colon": POST + b"X-A\r\nContent-Length: 0\r\n\r\n",
    "no name": POST + b": b\r\nContent-Length: 0\r\n\r\n",
    "a chunk's size beyond all": CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a space after a chunk's size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "bare line feeds between chunks": CHUNKED + b"3\nabc\n0\n\n",
    "a bare line feed after an extension": CHUNKED + b"3;a=b\nabc\r\n0\r\n\r\n",
    "no line break after a chunk": CHUNKED + b"3\r\nabcXX0\r\n\r\n",
    "a length in the trailers": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 1\r\n\r\n",
    "a coding in the trailers": CHUNKED + b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no Host": b"GET /v1/x HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /v1/x HTTP/1.1\r\nHost: evil.example\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /v1/x\r\n\r\n",
    "HTTP/2.0": b"GET /v1/x HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
    "a space in the target": b"GET /v1/x HTTP/1.1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target beyond ASCII": b"GET /v1/\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
}

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
PASSED = {
    # As Java's own client asks with every request; an upgrade is not followed, the request is.
    "an upgrade with a body": (POST + H2C + b"Content-Length: 3\r\n\r\nabc" + EVIL, [b"abc", b""]),
    "an upgrade with chunks": (
        POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + EVIL,
        [b"abc", b""],
    ),
    "two upgrades": ((b"GET /v1/x HTTP/1.1\r\n" + HOST + H2C + b"\r\n") * 2, [b"", b""]),
    "nothing after close": (POST + b"Connection: close\r\nContent-Length: 0\r\n\r\n" + EVIL, [b""]),
    "a request inside a body": (POST + b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL, [EVIL]),
    "Connection names the length": (
        POST + b"Connection: content-length\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL,
        [EVIL],
    ),
    "trailers": (CHUNKED + b"3;a=b\r\nabc\r\n0\r\nAuthorization: evil\r\nX-Evil: 1\r\n\r\n", [b"abc"]),
}


class Hasty(HTTPProtocol):
    """The server's protocol with times as short as a test wants them."""

    head_seconds = 0.3
    body_seconds = 0.3


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InThread, RawUpstream]]:
    with (
        raw_upstream(lambda connection, request: connection.send(answer(b"{}"))) as up,
        proxy_in_thread(tmp_path_factory.mktemp("hardening"), upstreams={"up": {"base_url": f"{up.url}/v1"}}) as proxy,
    ):
        yield proxy, up


def connect(proxy: InThread) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port))
    sock.settimeout(20)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            got += data
    return got


def status_of(got: bytes) -> int:
    return int(got[9:12])


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(both: tuple[InThread, RawUpstream], name: str) -> None:
    proxy, up = both
    up.requests.clear()
    with connect(proxy) as sock:
        sock.sendall(REFUSED[name])
        got = read_all(sock)
    assert status_of(got) == 400 and b'"code": "bad_request"' in got and got.count(b"HTTP/1.1 400") == 1, got
    assert not [request for request in up.requests if b"evil" in request.head]
    # A body that turns out wrong may have been on its way; whole it never is.
    assert not up.requests, up.requests


@pytest.mark.parametrize("name", PASSED)
def test_what_can_be_read_in_one_way_is_read_that_way(both: tuple[InThread, RawUpstream], name: str) -> None:
    proxy, up = both
    up.requests.clear()
    sent, bodies = PASSED[name]
    with connect(proxy) as sock:
        sock.sendall(sent)
        got = b""
        while got.count(b"HTTP/1.1 200") < len(bodies) or not got.endswith(b"{}"):
            data = sock.recv(65536)
            assert data, got
            got += data
    assert [request.body for request in up.requests] == bodies
    fields = [name.lower() for request in up.requests for name, _ in request.headers]
    assert not {b"authorization", b"x-evil", b"upgrade", b"http2-settings"} & {*fields}


def test_a_head_that_comes_slowly(tmp_path: Path) -> None:
    with serving(tmp_path, Hasty) as (proxy, _):
        with connect(proxy) as slow, connect(proxy) as half:
            half.sendall(b"POST /v1/x HTTP/1.1\r\nHo")
            slow.sendall(POST)
            with contextlib.suppress(ConnectionError):
                while slow.send(b"X-A: b\r\n"):
                    # A neighbour is served all the while.
                    assert httpx2.get(f"{proxy.url}/v1/models", trust_env=False).status_code == 200
                    slow.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        if (got := slow.recv(65536)) is not None:
                            break
                    slow.setblocking(True)
            assert status_of(got) == 408 and b"request_timeout" in got
            assert status_of(read_all(half)) == 408
        assert proxy.app.metrics.refused["request_timeout"] == 2


@pytest.mark.parametrize("length", [10, WHOLE_BODY_BYTES + 1], ids=["gathered first", "streamed"])
def test_a_body_that_does_not_come(tmp_path: Path, length: int) -> None:
    with serving(tmp_path, Hasty) as (proxy, up):
        with connect(proxy) as sock:
            sock.sendall(POST + b"Content-Length: %d\r\n\r\nabc" % length)
            assert status_of(read_all(sock)) == 408
        assert proxy.exchange().outcome == "client_gone"
        if length > WHOLE_BODY_BYTES:
            eventually(lambda: up.errors, "the end of the upstream's connection")
        assert not up.requests


def test_a_body_that_comes_slowly_but_comes(tmp_path: Path) -> None:
    """Silence is what ends it, not its length; and nothing is asked of a client while it waits for its answer."""
    with serving(tmp_path, Hasty, answer_after=3 * Hasty.body_seconds) as (proxy, up):
        with connect(proxy) as sock:
            sock.sendall(POST + b"Content-Length: 12\r\nConnection: close\r\n\r\n")
            for _ in range(12):
                time.sleep(Hasty.body_seconds / 6)  # the client's own pace
                sock.sendall(b"x")
            assert status_of(read_all(sock)) == 200
        assert [request.body for request in up.requests] == [b"x" * 12]


def test_connections_that_say_nothing_are_closed_in_the_end(tmp_path: Path) -> None:
    with (
        serving(tmp_path, Hasty, timeout_keep_alive=0.3) as (proxy, _),
        connect(proxy) as mute,
        connect(proxy) as blank,
        connect(proxy) as done,
    ):
        blank.sendall(b"\r\n")
        done.sendall(EVIL)
        assert [read_all(sock)[9:12] for sock in (mute, blank, done)] == [b"", b"", b"200"]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (POST + b"X-A: ", b"a" * 10_000),
        (POST, b"X-A: a\r\n" * 1000),
        (b"GET /v1/", b"a" * 10_000),
        (b"G", b"E" * 10_000),
        (CHUNKED + b"3\r\nabc\r\n0\r\nX-A: ", b"a" * 10_000),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", b"X-A: a\r\n" * 1000),
        (CHUNKED + b"3;a=", b"a" * 10_000),
    ],
    ids=["one field", "many fields", "the target", "the method", "one trailer", "many trailers", "an extension"],
)
def test_what_has_no_end_is_refused(both: tuple[InThread, RawUpstream], start: bytes, more: bytes) -> None:
    proxy, up = both
    up.requests.clear()
    with connect(proxy) as sock:
        sock.sendall(start)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100 * HTTPProtocol.head_bytes:
                sent += sock.send(more)
        assert sent < 100 * HTTPProtocol.head_bytes
        with contextlib.suppress(ConnectionError):
            got = sock.recv(65536)
            assert not got or status_of(got) in (400, 431)
    assert not up.requests


def test_a_large_head_that_comes_at_once(both: tuple[InThread, RawUpstream]) -> None:
    proxy, _ = both
    limit = HTTPProtocol.head_bytes
    for size, status in ((limit // 2, 200), (limit + 1, 431)):
        with connect(proxy) as sock:
            sock.sendall(b"GET /v1/x HTTP/1.1\r\n" + HOST + b"Connection: close\r\nX-A: " + b"a" * size + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert status_of(sock.recv(65536)) == status


def test_a_response_that_has_begun_is_cut_and_never_written_into(tmp_path: Path) -> None:
    def begin(connection: Connection, request: RawRequest) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun")
        return connection.wait_closed()

    with raw_upstream(begin) as up, proxy_in_thread(tmp_path, upstreams={"up": {"base_url": up.url}}) as proxy:
        with connect(proxy) as sock:
            sock.sendall(POST + b"Content-Length: 0\r\n\r\n")
            got = b""
            while not got.endswith(b"begun"):
                got += sock.recv(65536)
            sock.sendall(b"this is no HTTP\r\n\r\n")
            assert read_all(sock) == b""
        assert proxy.exchange().outcome == "client_gone"


def test_thousands_of_idle_connections_leave_room_for_others(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    count = min(2000, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2)
    try:
        with serving(tmp_path, HTTPProtocol) as (proxy, _), contextlib.ExitStack() as idle:
            for number in range(count):
                sock = idle.enter_context(connect(proxy))
                if number % 2:
                    sock.sendall(b"GET /v1/x HTTP/1.1\r\n")
            for _ in range(20):
                assert httpx2.get(f"{proxy.url}/v1/models", trust_env=False).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def serving(
    tmp_path: Path, protocol: type[HTTPProtocol], *, answer_after: float = 0, **server: Any
) -> Iterator[tuple[InThread, RawUpstream]]:
    def handler(connection: Connection, request: RawRequest) -> None:
        time.sleep(answer_after)  # a model that thinks
        connection.send(answer(b"{}"))

    with (
        raw_upstream(handler) as up,
        proxy_in_thread(
            tmp_path, server={"http": protocol, **server}, upstreams={"up": {"base_url": f"{up.url}/v1"}}
        ) as proxy,
    ):
        yield proxy, up
