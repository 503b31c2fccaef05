"""Forwarding with and without ASGI: whatever is asked, both do the same. Many clients at once get what is theirs."""

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.capture.spool_reader import SpoolReader
from tests.test_direct import Ends, app_for, ends
from tests.wire import steps

BODY = b'{"a":1}'


def request(line: bytes, *fields: bytes, body: bytes = b"", host: bytes | None = b"Host: localhost") -> bytes:
    lines = [line + b" HTTP/1.1", *([host] if host is not None else []), *fields, b"", body]
    return b"\r\n".join(lines)


def post(*fields: bytes, target: bytes = b"/v1/x", length: bytes = b"Content-Length: 7") -> bytes:
    return request(b"POST " + target, length, *fields, body=BODY)


def chunked(*fields: bytes, target: bytes = b"/v1/x") -> bytes:
    body = b"7\r\n" + BODY + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
    return request(b"POST " + target, b"Transfer-Encoding: Chunked", *fields, body=body)


KEY = b"x-llmproxy-key: key-alice"
REQUESTS = [
    post(),
    post(KEY),
    *(post(KEY, target=target) for target in (b"/v1/x?", b"/v1/x?api_key=secret&a=b", b"http://localhost/v1/x?q")),
    *(post(KEY, length=length) for length in (b"content-length:007", b"Content-LENGTH:  7 \t", b"Content-Length: +7")),
    *(post(KEY, length=length) for length in (b"Content-Length: 7,7", b"Content-Length:", b"Content-Length: 0")),
    *(
        request(line, KEY)
        for line in (b"GET /v1", b"GET /v1/", b"GET //v1/x", b"GET /v1%2Fx", b"GET /v1/%2e%2e/a%20b%zz")
    ),
    *(
        request(line, KEY)
        for line in (b"OPTIONS *", b"CONNECT h:1", b"GET /", b"GET http://localhost?x=1", b"GET /up?x")
    ),
    *(
        request(line, KEY)
        for line in (b"HEAD /v1/x", b"M-SEARCH /v1/x", b"DELETE /v1/x", b"GET /none/x", b"GET /plain/y")
    ),
    *(post(KEY, target=target) for target in (b"/plain/v1/x", b"/other/v1/x", b"/", b"/v1/health", b"/_llmproxy/x")),
    chunked(KEY),
    chunked(KEY, target=b"/other/v1/x"),
    post(KEY, b"Content-Length: 7"),
    post(KEY, b"Transfer-Encoding: chunked"),
    post(KEY, b"X-E:", b"X-E: ", b"X-F:  a b  ", b"X-Drop: 1", b"x-drop: 2", b"Content-Type: a", b"X-O: \xe9\xff"),
    *(post(KEY, field) for field in (b"X-O: a\r\n b", b"X-O: \x01", b"X-O: \x7f", b"X-A: 1")),
    post(KEY, b"Connection: close, x-a", b"X-A: 1"),
    post(KEY, b"Connection: content-length"),
    post(KEY, b"Keep-Alive: 1", b"TE: trailers", b"Proxy-Authorization: x", b"Trailer: a"),
    post(KEY, b"Expect: 100-continue"),
    post(KEY, b"Upgrade: websocket", b"Connection: upgrade"),
    post(KEY, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: x"),
    post(b"Authorization: Bearer key-alice", b"x-api-key: p"),
    post(b"Authorization: bearer  key-bobby ", b"Cookie: c", b"Referer: http://u:p@h/?key=1"),
    post(KEY, b"Authorization: Bearer key-alice"),
    post(b"Authorization: Basic a"),
    post(KEY, b"Origin: http://evil"),
    post(KEY, b"Sec-Fetch-Site: cross-site"),
    *(request(b"GET /v1/x", KEY, host=host) for host in (None, b"Host:", b"Host: evil")),
    request(b"GET /v1/x", b"Host: localhost", KEY),
    post(KEY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    request(b"POST /v1/x", KEY, b"Content-Length: 20000", body=b"x" * 20_000),
    request(b"POST /v1/x", KEY, b"Content-Length: 300000", body=b"x" * 300_000),
]
RESPONSES = [
    b"HTTP/1.1 200 Fine\r\nX-A: 1\r\nSet-Cookie: s\r\nLocation: http://u:p@h/?key=1\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-b\r\nX-B: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No\r\nContent-Length: 3\r\nKeep-Alive: 1\r\n\r\n",
    b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nX-Api-Key: k\r\nX-E: \r\n\r\n",
]
SETTINGS: dict[str, Any] = {
    "upstreams": {
        "up": {
            "base_url": "http://localhost:9",
            "default_headers": {"Authorization": "Bearer K", "X-Drop": None, "Content-Type": "x/y"},
        },
        "plain": {"base_url": "http://localhost:9/b/v1"},
        "other": {"base_url": "http://localhost:9/c"},
    },
    "security": {"clients": {"al": "key-alice", "bo": "key-bobby"}},
    "default_upstream": "up",
}


def seen(folder: Path, way: str, cut: int) -> list[Any]:
    """What both ends saw of each request, twice on one connection, and what was recorded."""
    app = app_for(str(folder), SETTINGS, max_body_bytes=10_000, redact_headers=["x-a"])
    if way == "asgi":
        app.take = lambda client: None  # type: ignore[method-assign]

    async def run() -> list[Any]:
        found: list[Any] = []
        async with ends(str(folder), app=app) as first:
            for number, data in enumerate(REQUESTS):
                both = Ends(app, first.fd)
                before = len(first.upstreams)
                for _ in range(2):
                    for piece in (data[:-cut], data[-cut:]):
                        if not both.client.closed:
                            both.server.data_received(piece)
                        await steps(12)
                    for connection, _ in first.upstreams:
                        if connection._method:  # it is asked something
                            connection.data_received(RESPONSES[number % len(RESPONSES)])
                    await steps(12)
                assert not both.server.tasks, data
                both.lose_client()
                for connection, _ in first.upstreams:
                    connection.abort()
                await steps()
                wires = [wire.written for _, wire in first.upstreams[before:]]
                found.append((data[:60], bytes(both.client.written), both.client.closed, wires))
            found.append((dict(app.metrics.refused), dict(app.metrics.exchanges)))
        return found

    found = asyncio.run(run())
    reader = SpoolReader(folder / "spool")
    for exchange in (recorded.load() for recorded in reader.exchanges()):
        body = b"".join(piece for _, piece in exchange.response_body)
        request = exchange.path, exchange.client, exchange.request_headers, exchange.request_body
        found.append((request, exchange.status, exchange.response_headers, body, exchange.outcome, exchange.error))
    reader.close()
    return found


@pytest.mark.parametrize("cut", [1, 1000])
def test_both_ways_do_the_same(tmp_path: Path, cut: int) -> None:
    direct, asgi = seen(tmp_path / "direct", "direct", cut), seen(tmp_path / "asgi", "asgi", cut)
    assert len(direct) > len(REQUESTS) + 60, "most were forwarded and recorded"
    for one, other in zip(direct, asgi, strict=True):
        assert one == other
    text = b"".join(path.read_bytes() for path in tmp_path.glob("*/spool/*.spool"))
    for secret in (b"key-alice", b"key-bobby", b"secret", b"u:p", b"Bearer K", b"Basic a", b"Set-Cookie: s"):
        assert secret not in text


def numbered_request(number: int, rnd: random.Random) -> bytes:
    line = b"POST /v1/x?n=%d" % number
    body = b"(%d)" % number * rnd.choice((1, 50, 9000, 60_000))
    if rnd.random() < 0.3:
        return request(line, b"Transfer-Encoding: chunked", b"", b"%x" % len(body), body, b"0", body=b"\r\n")
    expect = [b"Expect: 100-continue"] if rnd.random() < 0.3 else []
    return request(line, b"Content-Length: %d" % len(body), *expect, body=body)


def numbered_response(number: int, rnd: random.Random) -> bytes:
    body = b"<%d:%b>" % (number, b"z" * rnd.choice((0, 3, 20_000, 400_000)))
    head = rnd.choice((b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")) + b"HTTP/1.1 200 OK\r\n"
    if rnd.random() < 0.4:
        cut = len(body) // 2
        chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (cut, body[:cut], len(body) - cut, body[cut:])
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    head += rnd.choice((b"", b"Connection: close\r\n")) + b"Content-Length: %d\r\n\r\n" % len(body)
    return head + body + rnd.choice((b"", b"junk"))


class NumberedUpstreams:
    """Answers each request with its number, in pieces of any size."""

    def __init__(self, connections: list[tuple[Any, Any]], rnd: random.Random) -> None:
        self._connections = connections
        self._rnd = rnd
        self._asked: dict[Any, int] = {}
        self._unsent: dict[Any, bytes] = {}

    def send(self, most: int) -> None:
        alive = [(connection, wire) for connection, wire in self._connections if not wire.closed]
        if not alive:
            return
        connection, wire = self._rnd.choice(alive)
        requests = re.findall(rb"n=(\d+) HTTP", wire.written)
        answered = self._asked.get(connection, 0)
        if len(requests) > answered and not self._unsent.get(connection):
            assert len(requests) == answered + 1, "the next request before the end of the response"
            self._asked[connection] = answered + 1
            self._unsent[connection] = numbered_response(int(requests[answered]), self._rnd)
        if data := self._unsent.get(connection):
            self._unsent[connection] = data[most:]
            connection.data_received(data[:most])

    def lose(self) -> None:
        """Those that were closed from our side, or one that is not."""
        for connection, wire in self._connections:
            if not connection.closed and (wire.closed or self._rnd.random() < 0.1):
                wire.closed = True
                connection.connection_lost(None)


@given(seed=st.integers(0, 2**32), fsync=st.booleans(), enabled=st.booleans())
@settings(max_examples=40)
def test_each_of_many_gets_what_is_his_in_whatever_order_all_happens(
    tmp_path_factory: pytest.TempPathFactory, seed: int, fsync: bool, enabled: bool
) -> None:
    folder, rnd = tmp_path_factory.mktemp("many"), random.Random(seed)
    app = app_for(str(folder), fsync=fsync, enabled=enabled)

    async def run() -> int:
        async with ends(str(folder), app=app) as first:
            clients = [first, *(Ends(app, first.fd) for _ in range(rnd.randint(0, 3)))]
            numbers = {client: range(10 * at, 10 * at + rnd.randint(1, 5)) for at, client in enumerate(clients)}
            unsent = {client: b"".join(numbered_request(n, rnd) for n in numbers[client]) for client in clients}
            upstreams = NumberedUpstreams(first.upstreams, rnd)
            for _ in range(rnd.randint(30, 150)):
                client = rnd.choice(clients)
                server, wire = client.server, client.client
                match rnd.choice(
                    ("send", "send", "answer", "answer", "answer", "full", "read", "steps", "step", "lose")
                ):
                    case "send" if not wire.closed and not server._reading_paused:
                        most = rnd.choice((1, 50, 1000, 300_000))
                        data, unsent[client] = unsent[client][:most], unsent[client][most:]
                        server.data_received(data)
                    case "answer":
                        upstreams.send(rnd.choice((1, 30, 100, 300_000, 10**7)))
                    case "full" if server.drained is None:
                        server.pause_writing()
                    case "read":
                        server.resume_writing()
                    case "steps":
                        await steps()
                    case "step":
                        await asyncio.sleep(0)
                    case "lose" if rnd.random() < 0.1:
                        upstreams.lose()
                        if rnd.random() < 0.3:
                            wire.closed = True
                            client.lose_client()
            for client in clients:
                got = [
                    int(n) for n in re.findall(rb"<(\d+):", re.sub(rb"\r\n[0-9a-f]+\r\n", b"", client.client.written))
                ]
                assert got == [n for n in numbers[client] if n in got]
                client.lose_client()
            sent = [n for _, wire in first.upstreams for n in re.findall(rb"n=(\d+) HTTP", wire.written)]
            assert len(set(sent)) == len(sent), "a request was sent twice"
            await steps(30)
            assert not first.server.tasks
            return sum(app.metrics.exchanges.values())

    ended = asyncio.run(run())
    if not enabled:
        return
    reader = SpoolReader(folder / "spool")
    exchanges = [recorded.load() for recorded in reader.exchanges()]
    reader.close()
    assert len(exchanges) == ended
    for exchange in exchanges:
        number = exchange.path.partition("n=")[2].encode()
        body = b"".join(piece for _, piece in exchange.response_body)
        assert set(re.findall(rb"\((\d+)\)", exchange.request_body)) <= {number}
        assert body[: len(number) + 2] == (b"<%b:" % number)[: len(body)]
        assert exchange.outcome != "complete" or body.endswith(b">")
        assert not exchange.error or "missing" not in exchange.error
