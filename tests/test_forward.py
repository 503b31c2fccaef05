"""Forwarding over real sockets on both sides: transparency, pieces, cancellation, truncation."""

import gc
import gzip
import hashlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.app import App
from tests.proxy import InThread, eventually, proxy_in_thread
from tests.raw_upstream import Connection, Handler, RawRequest, RawUpstream, answer, raw_upstream
from tests.wire import read_until


@pytest.fixture(autouse=True, params=["direct", "asgi"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test is held by both ways through the serving process."""
    if request.param == "asgi":
        monkeypatch.setattr(App, "take", lambda self, client: None)
    return str(request.param)


@contextmanager
def forwarding(tmp_path: Path, handler: Handler, **upstream: Any) -> Iterator[tuple[InThread, RawUpstream]]:
    with raw_upstream(handler) as up:
        settings = {"base_url": f"{up.url}/base/v1", **upstream}
        with proxy_in_thread(tmp_path, upstreams={"up": settings}) as proxy:
            yield proxy, up


def connect(proxy: InThread) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=60)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def post(body: bytes = b"{}", path: bytes = b"/v1/chat/completions", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)


def test_the_upstream_sees_the_clients_bytes_and_nothing_else(tmp_path: Path) -> None:
    body = b'{"odd" : "spacing",\n"n":1.0}\x00\xff'
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"{}"))) as (proxy, up):
        with connect(proxy) as sock:
            sock.sendall(
                b"POST /v1/chat/completions?b=2&a=%%2F&a=1 HTTP/1.1\r\nHost: localhost\r\nX-Two: 1\r\nAccept: */*\r\n"
                b"x-two: 2\r\nConnection: close, X-Hop\r\nX-Hop: dropped\r\nTE: trailers\r\nAuthorization: Bearer k\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            read_all(sock)
    (request,) = up.requests
    assert request.request_line == b"POST /base/v1/chat/completions?b=2&a=%2F&a=1 HTTP/1.1"
    assert request.headers == [
        (b"host", f"127.0.0.1:{up.port}".encode()),
        (b"X-Two", b"1"),
        (b"Accept", b"*/*"),
        (b"x-two", b"2"),
        (b"Authorization", b"Bearer k"),
        (b"Content-Length", str(len(body)).encode()),
    ]
    assert request.body == body


def test_the_client_sees_the_upstreams_bytes_and_nothing_else(tmp_path: Path) -> None:
    body = gzip.compress(b'{"still": "compressed"}')
    head = b"X-B: 1\r\nX-A: 2\r\nx-b: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    head += b"content-encoding: gzip\r\nKeep-Alive: 5\r\n"
    with forwarding(tmp_path, lambda c, r: c.send(answer(body, status=b"429 Slow", headers=head))) as (proxy, _):
        with connect(proxy) as sock:
            sock.sendall(post(more=b"Connection: close\r\n"))
            head, _, got = read_all(sock).partition(b"\r\n\r\n")
    assert got == body
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 429 Slow",
        b"X-B: 1",
        b"X-A: 2",
        b"x-b: 3",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"content-encoding: gzip",
        b"content-length: %d" % len(body),
        b"connection: close",
    ]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"])
def test_every_method_passes(tmp_path: Path, method: str) -> None:
    def handler(connection: Connection, request: RawRequest) -> None:
        connection.send(answer(b"" if method == "HEAD" else b"x"))

    with forwarding(tmp_path, handler) as (proxy, up):
        assert httpx2.request(method, f"{proxy.url}/v1/models").status_code == 200
    assert up.requests[0].request_line == f"{method} /base/v1/models HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("/v1/models", "/base/v1/models"),
        ("/v1", "/base/v1"),
        ("/up/v1/models?x=%20", "/base/v1/models?x=%20"),
        ("/up/api/tags", "/api/tags"),
        ("/v1/a%2Fb//c/../d", "/base/v1/a%2Fb//c/../d"),
        ("/v1/%F0%9F%8D%8B", "/base/v1/%F0%9F%8D%8B"),
        ("/v1/models?", "/base/v1/models?"),
        ("http://localhost/v1/models?a=%20", "/base/v1/models?a=%20"),
    ],
)
def test_paths_pass_undecoded(tmp_path: Path, asked: str, sent: str) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, up), connect(proxy) as sock:
        sock.sendall(f"GET {asked} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert b" 200 " in read_all(sock)
    assert up.requests[0].request_line == f"GET {sent} HTTP/1.1".encode()


def test_default_headers_win_and_null_removes(tmp_path: Path) -> None:
    defaults = {"Authorization": "Bearer ours", "X-Drop-Me": None}
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x")), default_headers=defaults) as (proxy, up):
        httpx2.post(f"{proxy.url}/v1/x", headers={"authorization": "Bearer theirs", "x-drop-me": "1"}, content=b"{}")
        assert b"ours" not in b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.spool"))
        assert b"theirs" not in b"".join(path.read_bytes() for path in (tmp_path / "spool").glob("*.spool"))
    headers = dict(up.requests[0].headers)
    assert headers[b"authorization"] == b"Bearer ours"
    assert b"x-drop-me" not in headers


def test_cookies_of_one_caller_are_not_given_to_the_next(tmp_path: Path) -> None:
    handler: Handler = lambda c, r: c.send(answer(b"x", headers=b"set-cookie: session=secret\r\n"))  # noqa: E731
    with forwarding(tmp_path, handler) as (proxy, up):
        httpx2.get(f"{proxy.url}/v1/a")
        httpx2.get(f"{proxy.url}/v1/b")
    assert all(b"cookie" not in dict(request.headers) for request in up.requests)


def test_redirects_are_passed_on(tmp_path: Path) -> None:
    handler: Handler = lambda c, r: c.send(answer(b"", status=b"307 T", headers=b"location: /x\r\n"))  # noqa: E731
    with forwarding(tmp_path, handler) as (proxy, up):
        response = httpx2.post(f"{proxy.url}/v1/a", content=b"{}")
    assert (response.status_code, response.headers["location"], len(up.requests)) == (307, "/x", 1)


def test_each_piece_is_passed_on_before_the_next_is_sent(tmp_path: Path) -> None:
    seen = threading.Semaphore(0)

    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(20):
            piece = b"data: %d\n\n" % number
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert seen.acquire(timeout=60), "the client did not get the piece"
        connection.send(b"0\r\n\r\n")
        return True

    with forwarding(tmp_path, handler) as (proxy, up):
        got = []
        with httpx2.stream("POST", f"{proxy.url}/v1/chat/completions", content=b"{}") as response:
            for piece in response.iter_raw():
                got.append(piece)
                seen.release()
        assert got == [b"data: %d\n\n" % number for number in range(20)]
        assert not up.errors
        recorded = proxy.exchange()
    assert [piece for _, piece in recorded.response_body] == got
    assert recorded.outcome == "complete"


def test_a_client_that_does_not_read_holds_the_upstream_back(tmp_path: Path) -> None:
    """And gets every byte when it reads on."""
    piece, count = b"0123456789abcdef" * 4096, 1024  # 64 MB
    stalled = threading.Event()
    sent_before = 0

    def handler(connection: Connection, request: RawRequest) -> None:
        nonlocal sent_before
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(count):
            if not stalled.is_set() and not select.select([], [connection.sock], [], 0.3)[1]:
                stalled.set()
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            sent_before += not stalled.is_set()
        connection.send(b"0\r\n\r\n")

    with forwarding(tmp_path, handler) as (proxy, _):
        with connect(proxy) as sock:
            sock.sendall(post(more=b"Connection: close\r\n"))
            assert stalled.wait(20), "the upstream was never held back"
            received = hashlib.sha256()
            for each in chunks(sock):
                received.update(each)
        assert received.digest() == hashlib.sha256(piece * count).digest()
        assert sent_before < count // 2
        assert proxy.exchange().outcome == "complete"


def chunks(sock: socket.socket) -> Iterator[bytes]:
    """The chunks of a response's body, read from the socket one by one."""
    with sock.makefile("rb") as file:
        while file.readline() not in (b"\r\n", b""):
            pass
        while length := int(file.readline(), 16):
            yield file.read(length)
            file.readline()


def test_request_bodies_stream_up(tmp_path: Path) -> None:
    arrived = threading.Semaphore(0)
    pieces: list[bytes] = []

    def handler(connection: Connection, request: RawRequest) -> bool:
        return True

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        connection = Connection(sock)
        connection.read_head()
        while length := int(connection.read_line(), 16):
            pieces.append(connection.read(length))
            connection.read_line()
            arrived.release()
        connection.read_line()
        connection.send(answer(b"done"))
        sock.close()

    def body() -> Iterator[bytes]:
        for number in range(5):
            yield b"piece %d" % number
            assert arrived.acquire(timeout=60), "the upstream did not get the piece"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        upstreams = {"up": {"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"}}
        with proxy_in_thread(tmp_path, upstreams=upstreams) as proxy:
            response = httpx2.post(f"{proxy.url}/v1/files", content=body())
            assert response.content == b"done"
            assert proxy.exchange().request_body == b"".join(pieces) == b"piece 0piece 1piece 2piece 3piece 4"
        thread.join()


def test_expect_100_continue_is_answered_by_us(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, up), connect(proxy) as sock:
        sock.sendall(
            b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"{}")
        assert b" 200 " in read_all(sock)
    assert b"expect" not in dict(up.requests[0].headers)


def test_1xx_head_204_and_304(tmp_path: Path) -> None:
    def handler(connection: Connection, request: RawRequest) -> None:
        path = request.request_line.split()[1]
        if path.endswith(b"early"):
            connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n" + answer(b"x"))
        elif path.endswith(b"204"):
            connection.send(b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n")
        elif path.endswith(b"304"):
            connection.send(b'HTTP/1.1 304 Not Modified\r\netag: "x"\r\ncontent-length: 10\r\n\r\n')
        else:
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")

    with forwarding(tmp_path, handler) as (proxy, _), httpx2.Client(base_url=proxy.url) as client:
        assert client.get("/v1/early").content == b"x"
        assert client.get("/v1/204").headers == httpx2.Headers({"x-a": "1"})
        assert client.get("/v1/304").headers["etag"] == '"x"'
        assert client.head("/v1/head").headers["content-length"] == "1234"
        outcomes = [exchange.outcome for exchange in eventually(proxy.exchanges, "exchanges")]
    assert outcomes == ["complete"] * 4


def wait_for_outcome(proxy: InThread) -> str:
    return eventually(lambda: [exchange.outcome for exchange in proxy.exchanges()], "an end")[0]


class Silent:
    """Answers nothing; knows when a request has come, and when its connection was closed."""

    def __init__(self) -> None:
        self.arrived, self.closed = threading.Event(), threading.Event()

    def __call__(self, connection: Connection, request: RawRequest) -> bool:
        self.arrived.set()
        assert connection.wait_closed()
        self.closed.set()
        return False


def test_a_client_that_goes_before_the_first_byte_closes_the_upstream(tmp_path: Path) -> None:
    silent = Silent()
    with forwarding(tmp_path, silent) as (proxy, _):
        sock = connect(proxy)
        sock.sendall(post())
        assert silent.arrived.wait(10)
        sock.close()
        assert silent.closed.wait(10)
        assert wait_for_outcome(proxy) == "client_gone"
        assert proxy.exchange().status is None


def test_a_client_that_goes_in_the_middle_closes_the_upstream(tmp_path: Path) -> None:
    closed = threading.Event()

    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert connection.wait_closed()
        closed.set()
        return False

    with forwarding(tmp_path, handler) as (proxy, _):
        sock = connect(proxy)
        sock.sendall(post())
        while b"hello" not in sock.recv(65536):
            pass
        sock.close()
        assert closed.wait(10)
        assert wait_for_outcome(proxy) == "client_gone"
        assert b"".join(piece for _, piece in proxy.exchange().response_body) == b"hello"


@pytest.mark.parametrize(
    ("sent", "complete"),
    [
        (b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", False),
        (b"content-length: 100\r\n\r\nhello", False),
        (b"\r\nhello", True),  # delimited by the connection's end: nobody can tell
    ],
)
def test_a_cut_response_looks_cut(tmp_path: Path, sent: bytes, complete: bool) -> None:
    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\n" + sent)
        return False

    with forwarding(tmp_path, handler) as (proxy, _), connect(proxy) as sock:
        sock.sendall(post())
        got = read_all(sock) if not complete else sock.recv(65536)
        while complete and not got.endswith(b"0\r\n\r\n"):
            got += sock.recv(65536)
        assert b"hello" in got
        assert got.endswith(b"0\r\n\r\n") is complete
        assert wait_for_outcome(proxy) == ("complete" if complete else "upstream_cut")


def test_a_cut_response_looks_cut_where_its_end_is_the_connections(tmp_path: Path) -> None:
    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        return False

    with forwarding(tmp_path, handler) as (proxy, _), connect(proxy) as sock:
        sock.sendall(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        assert wait_for_outcome(proxy) == "upstream_cut"


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    upstreams = {"up": {"base_url": f"http://127.0.0.1:{refused_port()}/v1"}}
    with proxy_in_thread(tmp_path, upstreams=upstreams) as proxy:
        response = httpx2.post(f"{proxy.url}/v1/chat/completions", content=b"{}")
        assert response.status_code == 502
        assert response.headers["x-llmproxy-error"] == response.json()["error"]["code"] == "upstream_unreachable"
        exchange = proxy.exchange()
    assert (exchange.outcome, exchange.status, exchange.request_body) == ("upstream_unreachable", None, b"{}")


@pytest.mark.parametrize("sent", [b"garbage\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nbroken\x00: x\r\n\r\n", b"HTTP/1.1"])
def test_an_upstream_that_speaks_no_http(tmp_path: Path, sent: bytes) -> None:
    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(sent)
        return False

    with forwarding(tmp_path, handler) as (proxy, up):
        response = httpx2.post(f"{proxy.url}/v1/chat/completions", content=b"{}")
        assert (response.status_code, response.headers["x-llmproxy-error"]) == (502, "upstream_protocol")
        assert wait_for_outcome(proxy) == "upstream_protocol"
        assert len(up.requests) == 1, "a request is never sent twice"


@pytest.mark.parametrize("begun", [False, True])
def test_an_upstream_that_falls_silent(tmp_path: Path, begun: bool) -> None:
    def handler(connection: Connection, request: RawRequest) -> bool:
        if begun:
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        connection.wait_closed()
        return False

    with forwarding(tmp_path, handler, read_timeout=0.2) as (proxy, _):
        if begun:
            with pytest.raises(httpx2.RemoteProtocolError):
                httpx2.post(f"{proxy.url}/v1/chat/completions", content=b"{}")
        else:
            response = httpx2.post(f"{proxy.url}/v1/chat/completions", content=b"{}")
            assert (response.status_code, response.headers["x-llmproxy-error"]) == (504, "upstream_timeout")
        assert wait_for_outcome(proxy) == "timeout"


def test_a_pooled_connection_that_the_upstream_closed_is_not_used(tmp_path: Path) -> None:
    may_close, closed = threading.Semaphore(0), threading.Semaphore(0)

    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(answer(b"x"))
        assert may_close.acquire(timeout=60)
        connection.sock.shutdown(socket.SHUT_RDWR)
        closed.release()
        return False

    with forwarding(tmp_path, handler) as (proxy, up):
        for number in range(1, 4):
            assert httpx2.get(f"{proxy.url}/v1/{number}").status_code == 200
            may_close.release()
            assert closed.acquire(timeout=60)
        assert up.connections == 3


def test_connections_are_reused(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, up):
        for _ in range(5):
            assert httpx2.get(f"{proxy.url}/v1/x").status_code == 200
        assert up.connections == 1


def test_200_streams_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(200)

    def handler(connection: Connection, request: RawRequest) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        together.wait(30)  # all are open before any goes on
        name = request.body
        for number in range(10):
            piece = b"%b %d;" % (name, number)
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")

    results: dict[int, bytes] = {}

    def client(number: int, url: str) -> None:
        results[number] = httpx2.post(url, content=b"stream-%d" % number, timeout=60).content

    with forwarding(tmp_path, handler) as (proxy, _):
        url = f"{proxy.url}/v1/chat/completions"
        threads = [threading.Thread(target=client, args=(number, url)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        exchanges = proxy.exchanges()
    expected = {number: b"".join(b"stream-%d %d;" % (number, n) for n in range(10)) for number in range(200)}
    assert results == expected
    recorded = {e.request_body: b"".join(piece for _, piece in e.response_body) for e in exchanges}
    assert recorded == {b"stream-%d" % number: body for number, body in expected.items()}


def test_bodies_beyond_the_limit_pass_whole_and_are_captured_cut(tmp_path: Path) -> None:
    body = b"0123456789" * 30_000
    with raw_upstream(lambda c, r: c.send(answer(r.body))) as up:
        upstreams = {"up": {"base_url": f"{up.url}/v1"}}
        with proxy_in_thread(tmp_path, upstreams=upstreams, capture={"max_body_bytes": 100_000}) as proxy:
            assert httpx2.post(f"{proxy.url}/v1/x", content=body).content == body
            exchange = proxy.exchange()
    assert exchange.request_body == body[:100_000]
    assert b"".join(piece for _, piece in exchange.response_body) == body[:100_000]
    assert exchange.request_truncated and exchange.response_truncated
    assert (exchange.request_bytes, exchange.response_bytes) == (len(body), len(body))


def test_websocket_upgrades_are_426(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, up), connect(proxy) as sock:
        sock.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b" 426 " in sock.recv(65536)
    assert not up.requests


def test_an_unknown_upstream_names_those_there_are(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, _):
        response = httpx2.post(f"{proxy.url}/nope/v1/chat/completions", content=b"{}")
        assert (response.status_code, response.headers["x-llmproxy-error"]) == (404, "unknown_upstream")
        assert "there is: up" in response.json()["error"]["message"]
        assert proxy.exchanges() == []


def test_our_own_paths(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(b"x"))) as (proxy, up):
        assert httpx2.get(f"{proxy.url}/").json() == {"status": "healthy"}
        for path in ("/", "/v1/health", "/api/v1/health"):
            assert httpx2.head(f"{proxy.url}{path}").status_code == 200
        assert httpx2.get(f"{proxy.url}/v1/health").json() == {"status": "ok"}
        assert httpx2.get(f"{proxy.url}/api/v1/health").json() == {"status": "ok"}
        httpx2.post(f"{proxy.url}/v1/health", content=b"{}")
        assert "llmproxy_exchanges_total" in httpx2.get(f"{proxy.url}/_llmproxy/metrics").text
    assert [request.request_line for request in up.requests] == [b"POST /base/v1/health HTTP/1.1"]


def test_a_response_before_the_upload_has_ended(tmp_path: Path) -> None:
    answered = threading.Event()

    def too_large(connection: Connection) -> None:
        connection.read_head()
        connection.send(answer(b"too large", status=b"413 T", headers=b"connection: close\r\n"))
        answered.set()
        connection.wait_closed()

    with in_front_of(tmp_path, too_large) as proxy, connect(proxy) as sock:
        sock.sendall(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nsome")
        assert answered.wait(10)
        assert b" 413 " in read_until(sock, b"too large")


@contextmanager
def in_front_of(tmp_path: Path, *handlers: Callable[[Connection], None]) -> Iterator[InThread]:
    """A proxy whose upstream accepts a connection for each handler, one after the other, before its request is read;
    all of them have ended when this has."""

    def serve() -> None:
        for handler in handlers:
            sock, _ = listener.accept()
            with sock:
                handler(Connection(sock))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        upstreams = {"up": {"base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"}}
        with proxy_in_thread(tmp_path, upstreams=upstreams) as proxy:
            yield proxy
        thread.join(10)
        assert not thread.is_alive()


def refusing(connection: Connection) -> None:
    connection.read_head()
    connection.send(answer(b"no", status=b"401 U", headers=b"connection: close\r\n"))
    connection.wait_closed()


def answering(connection: Connection) -> None:
    connection.read_request()
    connection.send(answer(b"yes"))
    connection.wait_closed()


def test_a_client_that_uploads_to_its_end_after_the_response_goes_on_on_its_connection(tmp_path: Path) -> None:
    with in_front_of(tmp_path, refusing, answering) as proxy, connect(proxy) as sock:
        sock.sendall(post(b"x" * 5_000_000))
        assert read_until(sock, b"no").startswith(b"HTTP/1.1 401 ")
        sock.sendall(post())
        assert read_until(sock, b"yes").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_uploads_to_its_end_has_the_response_where_it_is_the_last(tmp_path: Path) -> None:
    with in_front_of(tmp_path, refusing) as proxy, connect(proxy) as sock:
        sock.sendall(post(b"x" * 20_000_000, more=b"Connection: close\r\n"))
        assert read_all(sock).startswith(b"HTTP/1.1 401 ")


def test_an_upstream_that_answers_and_closes_before_the_upload_has_ended(tmp_path: Path) -> None:
    tries = 6

    def hasty(connection: Connection) -> None:
        connection.read_head()
        connection.read(1)
        connection.send(answer(b"no", status=b"413 T", headers=b"connection: close\r\n"))

    with in_front_of(tmp_path, *[hasty] * tries) as proxy:
        for _ in range(tries):
            with connect(proxy) as sock:
                sock.sendall(post(b"x" * 10_000_000))
                assert read_until(sock, b"no").startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_while_another_of_its_requests_waits(tmp_path: Path) -> None:
    silent = Silent()
    with forwarding(tmp_path, silent) as (proxy, up):
        sock = connect(proxy)
        sock.sendall(post(b'{"first": 1}') + post(b'{"second": 2}') + post(b'{"third": 3}')[:-1])
        assert silent.arrived.wait(10)
        sock.close()
        assert silent.closed.wait(10)
        assert wait_for_outcome(proxy) == "client_gone"
        assert [request.body for request in up.requests] == [b'{"first": 1}']
        assert len(proxy.exchanges()) == 1


def test_metrics_count_what_ended(tmp_path: Path) -> None:
    with forwarding(tmp_path, lambda c, r: c.send(answer(json.dumps({"a": 1}).encode()))) as (proxy, _):
        for _ in range(3):
            httpx2.post(f"{proxy.url}/v1/chat/completions", content=b"{}")
        text = httpx2.get(f"{proxy.url}/_llmproxy/metrics").text
    assert 'llmproxy_exchanges_total{upstream="up",outcome="complete",status="200"} 3' in text
    assert "llmproxy_in_flight 0" in text


STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("sent", "vanish"),
    [
        (answer(b"{}"), False),
        (STREAM + b"0\r\n\r\n", False),
        (STREAM, False),
        (b"", False),
        (b"rubbish\r\n\r\n", False),
        (STREAM, True),
    ],
    ids=["whole", "streamed", "cut", "closed", "rubbish", "vanished"],
)
def test_nothing_is_left_for_the_garbage_collector(tmp_path: Path, sent: bytes, vanish: bool) -> None:
    """It comes seldom, so a cycle of references for each exchange would be memory that grows for minutes."""

    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(sent)
        if vanish:
            connection.sock.recv(1)
        return not (vanish or sent == STREAM or not sent)

    with forwarding(tmp_path, handler) as (proxy, _):
        gc.collect()
        gc.disable()
        try:
            for count in range(1, 4):
                with connect(proxy) as sock:
                    # A body that comes in one piece, and one that has a task of its own.
                    sock.sendall(post(b"x" * (2 if count == 1 else 300_000), more=b"Connection: close\r\n"))
                    if vanish:
                        sock.recv(100)
                    else:
                        read_all(sock)
                eventually(lambda wanted=count: len(proxy.exchanges()) == wanted, "the exchange's end")  # type: ignore[misc]
            eventually(lambda: not ours("HTTPProtocol") and not ours("Cycle"), "the end of the clients' connections")
            eventually(lambda: not any(map(ours, ("_Request", "Recording", "_ClientWatch", "Passage"))), "the rest's")
        finally:
            gc.enable()


def ours(name: str) -> list[object]:
    """The objects of one of our classes that are alive."""
    return [each for each in gc.get_objects() if type(each).__name__ == name and type(each).__module__ != __name__]
