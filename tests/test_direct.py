"""Forwarding by callbacks, between two wires that give and take any bytes at any moment."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.app import App
from llmproxy.capture.exchange import Exchange
from llmproxy.capture.spool_reader import SpoolReader
from llmproxy.capture.tee import Recording
from llmproxy.config import Config
from llmproxy.headers import ResponseFields
from llmproxy.server.protocol import MAX_UNREAD_BYTES
from llmproxy.transports.connection import MAX_HEAD_BYTES, Connection
from llmproxy.transports.http1 import LAST_CHUNK, chunk
from tests.wire import Wire, on_a_wire, split, steps

BODY = b'{"model": "m", "stream": true}'
REQUEST = b"POST /v1/chat/completions?a=%%20 HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
CHUNKED_REQUEST = (
    b"POST /v1/chat/completions?a=%20 HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\n" + BODY[:6] + b"\r\n%x\r\n" % (len(BODY) - 6) + BODY[6:] + b"\r\n0\r\n\r\n"
)
HEAD = b"HTTP/1.1 200 Fine\r\nx-a: 1\r\nSet-Cookie: secret\r\n"
RESPONSES = {
    "length": HEAD + b"Content-Length: 11\r\nConnection: keep-alive\r\n\r\nhello world",
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx-t: 1\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HEAD + b"Content-Length: 11\r\n\r\nhello world",
    "until close": HEAD + b"\r\nhello world",
}


class UpstreamWire(Wire):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return self._fd


class Ends:
    """Both ends of a proxy: what the client sends and gets, and what the upstream does."""

    def __init__(self, app: App, fd: int) -> None:
        self.server, self.state, self.client = on_a_wire(app)
        self.upstreams: list[tuple[Any, UpstreamWire]] = []
        self.clients: list[tuple[Any, Wire]] = []
        self.fd = fd
        self._lost = False

    async def connect(self, factory: Any, *address: Any) -> Any:
        connection, wire = factory(), UpstreamWire(self.fd)
        connection.connection_made(wire)
        self.upstreams.append((connection, wire))
        return connection

    def lose_client(self) -> None:
        if not self._lost:
            self._lost = True
            for server in (self.server, *(server for server, _ in self.clients)):
                server.connection_lost(None)

    async def give(self, receiver: Any, data: bytes, cuts: Sequence[int], *, at_once: bool) -> None:
        for piece in split(data, cuts):
            receiver.data_received(piece)
            if not at_once:
                await steps()


def app_for(folder: str, config: Mapping[str, Any] | None = None, **capture: Any) -> App:
    return App(
        Config.model_validate(
            {
                "upstreams": {"up": {"base_url": "http://localhost:9/base/v1"}},
                "capture": {"database": f"{folder}/logs.db", "spool": f"{folder}/spool", "enabled": True, **capture},
                **(config or {}),
            }
        )
    )


@asynccontextmanager
async def ends(folder: str, *, app: App | None = None, **settings: Any) -> Any:
    """Both ends of `app`, or of one of these settings (see `app_for`)."""
    app = app or app_for(folder, **settings)
    nothing_to_read, other = os.pipe()
    try:
        async with app._lifespan(app._own):
            both = Ends(app, nothing_to_read)
            with patch("llmproxy.transports.http1.connect", both.connect):
                yield both
            both.lose_client()
            await steps()
            assert not both.state.tasks and app.metrics.in_flight == 0
    finally:
        os.close(nothing_to_read)
        os.close(other)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def run_with_clock(test: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    loop = Clock()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(test(loop))


def recorded(folder: str) -> Exchange:
    reader = SpoolReader(Path(folder) / "spool")
    try:
        (exchange,) = [each.load() for each in reader.exchanges()]
        return exchange
    finally:
        reader.close()


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on gets no more time than it has to."""
    monkeypatch.setattr("llmproxy.transports.turns.perf_counter", lambda: 0.0)


def dechunked(wire: bytes) -> tuple[bytes, bytes]:
    """Head and body of a response in chunks."""
    head, _, rest = wire.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return head, body


@given(
    request=st.sampled_from((REQUEST, CHUNKED_REQUEST)),
    kind=st.sampled_from(sorted(RESPONSES)),
    request_cuts=st.lists(st.integers(1, 200), max_size=6),
    cuts=st.lists(st.integers(1, 200), max_size=8),
    at_once=st.booleans(),
    fsync=st.booleans(),
)
@settings(max_examples=150)
def test_what_comes_out_however_both_are_split(
    request: bytes, kind: str, request_cuts: list[int], cuts: list[int], at_once: bool, fsync: bool
) -> None:
    async def run(folder: str) -> tuple[bytes, bytes]:
        async with ends(folder, fsync=fsync) as both:
            await both.give(both.server, request, request_cuts, at_once=at_once)
            while not both.upstreams or not both.upstreams[0][1].written.endswith((BODY, b"0\r\n\r\n")):
                await asyncio.sleep(0)
            connection, wire = both.upstreams[0]
            await both.give(connection, RESPONSES[kind], cuts, at_once=at_once)
            if kind == "until close":
                connection.eof_received()
                connection.connection_lost(None)
            while not both.client.written.endswith((b"0\r\n\r\n", b"hello world")):
                await asyncio.sleep(0)
            return wire.written, both.client.written

    with tempfile.TemporaryDirectory() as folder:
        sent, got = asyncio.run(run(folder))
        exchange = recorded(folder)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/v1/chat/completions?a=%20 HTTP/1.1\r\nhost: localhost:9\r\nX-A: 1\r\n")
    assert body == BODY if request == REQUEST else dechunked(sent)[1] == BODY
    head, body = dechunked(got) if kind in ("chunked", "until close") else got.split(b"\r\n\r\n", 1)
    assert head.split(b"\r\n")[:3] == [b"HTTP/1.1 200 Fine", b"x-a: 1", b"Set-Cookie: secret"]
    assert b"onnection" not in head and body == b"hello world"
    assert (exchange.outcome, exchange.error, exchange.request_body) == ("complete", None, BODY)
    assert b"".join(piece for _, piece in exchange.response_body) == b"hello world"
    assert dict(exchange.response_headers)[b"Set-Cookie"] == b"[redacted]"


@given(
    kind=st.sampled_from(sorted(set(RESPONSES) - {"until close"})),
    at=st.integers(0, 200),
    cuts=st.lists(st.integers(1, 200), max_size=3),
    who=st.sampled_from(("upstream", "client", "server")),
)
@settings(max_examples=150)
def test_what_is_cut_looks_cut_wherever_it_is(kind: str, at: int, cuts: list[int], who: str) -> None:
    response = RESPONSES[kind]
    at = min(at, len(response) - 1)

    async def run(folder: str) -> tuple[bytes, bool, bool]:
        async with ends(folder) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, wire = both.upstreams[0]
            await both.give(connection, response[:at], cuts, at_once=False)
            if who == "upstream":
                connection.connection_lost(None)
            elif who == "client":
                both.lose_client()
            else:
                for task in both.state.tasks:
                    task.cancel(msg="the grace is over")
            await steps()
            return both.client.written, both.client.closed, wire.closed

    with tempfile.TemporaryDirectory() as folder:
        got, client_closed, upstream_closed = asyncio.run(run(folder))
        exchange = recorded(folder)
    assert not got.endswith((b"0\r\n\r\n", b"hello world"))
    assert (
        exchange.outcome
        in {
            "upstream": ("upstream_protocol", "upstream_cut"),
            "client": ("client_gone",),
            "server": ("interrupted",),
        }[who]
    )
    if who == "upstream":
        assert (b"502 Bad Gateway" in got) == (exchange.outcome == "upstream_protocol") != client_closed
    else:
        assert upstream_closed
        assert who == "client" or client_closed or b"500 Internal Server Error" in got
    whole = b"".join(piece for _, piece in exchange.response_body)
    assert b"hello world".startswith(whole)


@given(
    kind=st.sampled_from(("length", "chunked", "until close")),
    pieces=st.lists(st.tuples(st.sampled_from((1, 100, 20_000)), st.booleans()), min_size=1, max_size=12),
    end=st.sampled_from(("whole", "eof", "cut")),
)
@settings(max_examples=150)
def test_all_of_a_stream_that_came_goes_on(kind: str, pieces: list[tuple[int, bool]], end: str) -> None:
    sent = [(b"%d" % (i % 10) * size, waits) for i, (size, waits) in enumerate(pieces)]
    body = b"".join(piece for piece, _ in sent)
    whole = end == "whole" if kind != "until close" else end != "cut"
    fields = {
        "length": b"Content-Length: %d\r\n" % (len(body) + (not whole)),
        "chunked": b"Transfer-Encoding: chunked\r\n",
    }

    async def run(folder: str) -> bytes:
        async with ends(folder) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, _ = both.upstreams[0]
            connection.data_received(HEAD + fields.get(kind, b"") + b"\r\n")
            for piece, waits in sent:
                connection.data_received(chunk(piece) if kind == "chunked" else piece)
                if waits:
                    await steps()
            if end == "whole" and kind == "chunked":
                connection.data_received(LAST_CHUNK)
            if end == "eof" or (end == "whole" and kind == "until close"):
                connection.eof_received()
            if end != "whole" or kind == "until close":
                connection.connection_lost(OSError("reset") if end == "cut" else None)
            await steps()
            return bytes(both.client.written)

    with tempfile.TemporaryDirectory() as folder:
        got = asyncio.run(run(folder))
        exchange = recorded(folder)
    assert (dechunked(got)[1] if kind != "length" else got.partition(b"\r\n\r\n")[2]) == body
    assert b"".join(piece for _, piece in exchange.response_body) == body
    assert exchange.outcome == ("complete" if whole else "upstream_cut")
    assert got.endswith(LAST_CHUNK) == (whole and kind != "length")


def test_what_is_new_comes_before_what_goes_on(tmp_path: Path) -> None:
    head = HEAD + b"Content-Length: 21012\r\n\r\n"

    async def run() -> None:
        app = app_for(str(tmp_path))
        async with ends(str(tmp_path), app=app) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            server, _, client = on_a_wire(app)
            both.clients.append((server, client))
            await both.give(server, REQUEST, (), at_once=False)
            (going, _), (new, _) = both.upstreams
            for piece in (head, b"one", b"two"):
                await both.give(going, piece, (), at_once=False)
            for _ in range(21):
                await both.give(going, b"x" * 1_000, (), at_once=False)
            going.data_received(b"and")
            new.data_received(head)
            new.data_received(b"one")
            assert client.written.endswith(b"one") and both.client.written.endswith(b"x")
            await steps()
            assert both.client.written.endswith(b"xand")
            await both.give(new, b"twoandend", (3, 6), at_once=True)
            await both.give(going, b"end", (), at_once=False)
            assert client.written.endswith(b"onetwoandend") and both.client.written.endswith(b"xandend")

    asyncio.run(run())


@pytest.mark.parametrize("status", [b"199 x", b"600 x", b"999 x", b"200 O\0K"])
def test_a_status_or_a_reason_that_cannot_be_passed_on(tmp_path: Path, status: bytes) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            both.upstreams[0][0].data_received(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)
            await steps()
            if not both.client.written:
                both.upstreams[0][0].connection_lost(None)  # an interim response, and no other
                await steps()
            return bytes(both.client.written)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 502 ")
    assert recorded(str(tmp_path)).outcome == "upstream_protocol"


def test_requests_that_are_pipelined_are_answered_in_turn(tmp_path: Path) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            both.server.data_received(REQUEST + REQUEST.replace(b"a=%20", b"b=%20"))
            for _ in range(2):
                await steps()
                (connection, wire) = both.upstreams[0]
                asked = wire.written.rpartition(b"POST ")[2][len("/base/v1/chat/completions?")]
                connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%c" % asked)
            await steps()
            assert len(both.upstreams) == 1, "the connection was used again"
            return bytes(both.client.written)

    assert [part[:1] for part in asyncio.run(run()).split(b"\r\n\r\n")[1:]] == [b"a", b"b"]


def test_requests_that_are_pipelined_are_read_up_to_a_bound(tmp_path: Path) -> None:
    async def run() -> None:
        async with ends(str(tmp_path)) as both:
            pause, resume = both.client.pause_reading, both.client.resume_reading = Mock(), Mock()
            both.server.data_received(REQUEST)
            read = 0
            while not pause.called:
                both.server.data_received(REQUEST * 100)
                read += len(REQUEST) * 100
                assert read < 2 * MAX_UNREAD_BYTES
            assert read > MAX_UNREAD_BYTES
            for at in range(read // len(REQUEST)):
                await steps()
                assert not resume.called, at
                both.upstreams[0][0].data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            await steps()
            assert resume.called and pause.call_count == 1
            both.server.data_received(REQUEST * 2)
            assert pause.call_count == 1, "what waited before counts no more"

    asyncio.run(run())


def test_a_stream_of_single_bytes_has_no_end_to_its_framing(tmp_path: Path) -> None:
    count = MAX_HEAD_BYTES // 4

    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection = both.upstreams[0][0]
            connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(count):
                for piece in (b"1\r\n", b"x", b"\r\n"):
                    connection.data_received(piece)
            connection.data_received(LAST_CHUNK)
            await steps(2 * count)
            return bytes(both.client.written)

    assert dechunked(asyncio.run(run()))[1] == b"x" * count


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellorubbish"),
        (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        (b"POST", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (b"POST", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello"),
    ],
)
def test_what_comes_behind_a_response_is_left_out_and_ends_the_connection(
    tmp_path: Path, method: bytes, response: bytes
) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST.replace(b"POST", method, 1), (), at_once=False)
            connection, wire = both.upstreams[0]
            connection.data_received(response)
            await steps()
            assert wire.closed and not both.client.closed and not both.state.tasks
            return bytes(both.client.written)

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    assert head.startswith(response[:12]) and body == (b"hello" if b"200" in head and method == b"POST" else b"")
    assert recorded(str(tmp_path)).outcome == "complete"


async def streams(both: Any, app: App, count: int, length: int = 12) -> list[tuple[Any, Any, Any, Any]]:
    """Streams in the middle of a response of `length` bytes, of which "onetwo" has come: of each the upstream's and the
    client's end, and their wires."""
    both.clients += [on_a_wire(app)[::2] for _ in range(count - 1)]
    clients = [(both.server, both.client), *both.clients]
    for server, _ in clients:
        await both.give(server, REQUEST, (), at_once=False)
    for piece in (HEAD + b"Content-Length: %d\r\n\r\n" % length, b"one", b"two"):
        for connection, _ in both.upstreams:
            connection.data_received(piece)
        await steps(20)
    return [(up, server, wire, client) for (up, wire), (server, client) in zip(both.upstreams, clients, strict=True)]


def test_what_comes_long_after_a_stream_ends_the_connection_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        app = app_for(str(tmp_path))
        async with ends(str(tmp_path), app=app) as both:
            ((connection, _, wire, client),) = await streams(both, app, 1)
            await both.give(connection, b"andend", (3,), at_once=False)
            assert client.written.endswith(b"onetwoandend") and not wire.closed
            connection.data_received(HEAD + b"Content-Length: 3\r\n\r\nbad")
            assert wire.closed

    asyncio.run(run())


def test_what_comes_behind_a_stream_is_nobodys_response(tmp_path: Path, few_at_once: None) -> None:
    async def run() -> None:
        app = app_for(str(tmp_path))
        async with ends(str(tmp_path), app=app) as both:
            (connection, server, wire, client), *others = await streams(both, app, 40)
            server.pause_writing()  # its client does not read, so the exchange is not over yet
            await both.give(connection, b"andend", (3,), at_once=False)
            for other, *_ in others:
                other.data_received(b"a")
            connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSMUGGLED")
            server.resume_writing()
            nobody, _, got = on_a_wire(app)
            nobody.data_received(REQUEST)
            both.clients.append((nobody, got))
            await steps(60)
            assert wire.closed and client.written.endswith(b"onetwoandend")
            assert len(both.upstreams) == 41 and b"SMUGGLED" not in got.written

    asyncio.run(run())


def test_a_mistake_of_ours_in_a_turn_is_no_whole_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))
        app = app_for(str(tmp_path))
        async with ends(str(tmp_path), app=app) as both:
            ((connection, _, wire, client),) = await streams(both, app, 1)
            with monkeypatch.context() as patched:
                patched.setattr(Connection, "_receive", Mock(side_effect=MemoryError))
                await both.give(connection, b"and", (), at_once=False)
            assert wire.closed
            connection.connection_lost(None)
            await steps()
            assert client.closed and client.written.endswith(b"onetwo")

    asyncio.run(run())
    assert [type(exc) for exc in told] == [MemoryError]
    assert recorded(str(tmp_path)).outcome == "upstream_cut"


def test_small_and_large_pieces_in_turn_hold_nobody_up(tmp_path: Path, few_at_once: None) -> None:
    async def run() -> None:
        app = app_for(str(tmp_path))
        async with ends(str(tmp_path), app=app) as both:
            (mixed, _, _, got), (quiet, _, _, client) = await streams(both, app, 2, length=9_000_000)
            for _ in range(400):
                mixed.data_received(b"x")
                mixed.data_received(b"x" * 20_000)
            quiet.data_received(b"and")
            await steps(2)
            assert client.written.endswith(b"onetwoand") and len(got.written) > 400 * 20_000

    asyncio.run(run())


def test_a_piece_that_came_in_time_is_not_lost_to_the_silence_after_it(tmp_path: Path, few_at_once: None) -> None:
    upstreams = {"up": {"base_url": "http://localhost:9/v1", "read_timeout": 10}}

    async def run(clock: Clock) -> None:
        app = app_for(str(tmp_path), config={"upstreams": upstreams})
        async with ends(str(tmp_path), app=app) as both:
            *others, (connection, _, _, client) = await streams(both, app, 40)
            for other, *_ in others:
                other.data_received(b"a")
            connection.data_received(b"and")
            clock.ahead += 11  # the loop is held up
            await steps(60)
            assert client.closed and client.written.endswith(b"onetwoand")

    run_with_clock(run)


def test_a_client_that_reads_no_response_gets_no_more_of_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with ends(str(tmp_path)) as both:
            both.server.data_received(REQUEST * 3)
            await steps()
            connection, wire = both.upstreams[0]
            both.server.pause_writing()  # the client's side of the socket is full
            for already_asked in (1, 1, 2, 3):
                assert wire.written.count(b"POST ") == already_asked
                if wire.written.count(b"POST ") > both.client.written.count(b"HTTP/1.1 "):
                    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
                else:
                    both.server.resume_writing()
                await steps()
            assert both.client.written.count(b"HTTP/1.1 200 ") == 3

    asyncio.run(run())


@pytest.mark.parametrize("read", [1_000, 100_000])
@pytest.mark.parametrize("full_from", ["the beginning", "the middle"])
def test_a_client_that_does_not_read_its_stream_holds_the_upstream_up(
    tmp_path: Path, full_from: str, read: int
) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, wire = both.upstreams[0]
            if full_from == "the beginning":
                both.server.pause_writing()
            connection.data_received(HEAD + b"Content-Length: 900005\r\n\r\nhello")
            if full_from == "the middle":
                both.server.pause_writing()
                connection.data_received(b"x" * 100_000)
            passed = len(both.client.written)
            with patch.object(wire, "pause_reading") as pause_reading:
                for _ in range(400_000 // read):
                    if not pause_reading.called:
                        connection.data_received(b"x" * read)
                assert pause_reading.called
            assert len(both.client.written) == passed
            both.server.resume_writing()
            await steps()
            assert len(both.client.written) > passed + 200_000
            while not both.client.written.endswith(b"x" * 900_000):
                connection.data_received(b"x" * 100_000)
                await steps()
            return bytes(both.client.written)

    assert len(asyncio.run(run()).partition(b"\r\n\r\n")[2]) == 900_005
    assert recorded(str(tmp_path)).outcome == "complete"


def test_many_pipelined_requests_that_are_refused_at_once(tmp_path: Path) -> None:
    count = sys.getrecursionlimit()

    async def run() -> bytes:
        async with ends(str(tmp_path), on_spool_error="refuse") as both:
            (tmp_path / "spool").touch()  # no folder, and none can be made
            both.server.data_received(REQUEST * count)
            await steps(10 * count)
            return bytes(both.client.written)

    assert asyncio.run(run()).count(b"HTTP/1.1 503 ") == count


def test_a_response_whose_connection_field_names_its_length_is_framed(tmp_path: Path) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            head = b"HTTP/1.1 200 OK\r\nConnection: content-length, x-a\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n"
            both.upstreams[0][0].data_received(head + b"hello")
            await steps()
            return bytes(both.client.written)

    assert asyncio.run(run()) == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_an_upstream_that_is_still_being_told_is_not_silent(tmp_path: Path) -> None:
    async def run(clock: Clock) -> None:
        async with ends(str(tmp_path)) as both:
            both.server.data_received(REQUEST.replace(b"Content-Length: ", b"Content-Length: 10000"))
            await steps()
            for _ in range(19):
                clock.ahead += 50
                both.server.data_received(b"x" * 50_000)
                await steps()
            assert len(both.upstreams[0][1].written) > 950_000 and not both.client.written
            clock.ahead += 55
            await steps()
            assert not both.client.written
            clock.ahead += 10
            await steps()
            assert both.client.written.startswith(b"HTTP/1.1 408 "), "it is the client who is silent"

    run_with_clock(run)


def test_a_request_that_waits_half_sent_does_not_end_the_one_before_it(tmp_path: Path) -> None:
    async def run(clock: Clock) -> None:
        async with ends(str(tmp_path)) as both:
            both.server.data_received(REQUEST + REQUEST[:-5])
            await steps()
            connection = both.upstreams[0][0]
            connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(4):
                clock.ahead += 50
                await steps()
                connection.data_received(b"1\r\nx\r\n")
                await steps()
            assert not both.client.closed
            connection.data_received(LAST_CHUNK)
            await steps()
            assert both.client.written.endswith(LAST_CHUNK)
            clock.ahead += 50
            await steps()
            assert both.client.written.endswith(LAST_CHUNK), "its time began with the end of the one before"
            clock.ahead += 15
            await steps()
            assert b"HTTP/1.1 408 " in both.client.written

    run_with_clock(run)


def test_a_client_that_sends_on_behind_its_last_response_has_its_time_and_no_more(tmp_path: Path) -> None:
    request = REQUEST.replace(b"X-A: 1", b"Connection: close").replace(b"Content-Length: ", b"Content-Length: 10000")

    async def run(clock: Clock) -> None:
        async with ends(str(tmp_path)) as both:
            both.client.write_eof = eof = Mock()
            both.server.data_received(request)
            await steps()
            both.upstreams[0][0].data_received(b"HTTP/1.1 401 U\r\nContent-Length: 2\r\n\r\nno")
            await steps()
            assert both.client.written.endswith(b"no") and eof.called and not both.client.closed
            for _ in range(4):
                clock.ahead += 20
                both.server.data_received(b"x" * 300_000 + REQUEST)
                await steps()
            assert both.client.closed and both.client.written.endswith(b"no") and len(both.upstreams) == 1

    run_with_clock(run)


def test_a_stream_is_silent_only_where_nothing_comes(tmp_path: Path) -> None:
    upstreams = {"up": {"base_url": "http://localhost:9/v1", "read_timeout": 10}}

    async def run(clock: Clock) -> None:
        async with ends(str(tmp_path), config={"upstreams": upstreams}) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, wire = both.upstreams[0]
            connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(5):
                clock.ahead += 8
                connection.data_received(b"1\r\nx\r\n")
                await steps()
                assert not wire.closed
            clock.ahead += 11
            await steps()
            assert wire.closed and both.client.closed

    run_with_clock(run)
    exchange = recorded(str(tmp_path))
    assert exchange.outcome != "complete" and "silent for 10 seconds" in (exchange.error or "")


def test_each_upstream_has_its_own_patience_with_a_connection_that_they_share(tmp_path: Path) -> None:
    upstreams = {
        name: {"base_url": "http://localhost:9/v1", "read_timeout": seconds}
        for name, seconds in (("patient", 600), ("hasty", 5))
    }

    async def run(clock: Clock) -> None:
        async with ends(str(tmp_path), config={"upstreams": upstreams}) as both:
            for name, seconds in (("patient", 500), ("hasty", 4), ("patient", 500), ("hasty", 6)):
                before = len(both.client.written)
                both.server.data_received(b"GET /%b/v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode())
                await steps()
                clock.ahead += seconds
                await steps()
                assert (b"HTTP/1.1 504 " in both.client.written) == (seconds == 6)
                if seconds != 6:
                    both.upstreams[0][0].data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    await steps()
                assert len(both.client.written) > before
            assert len(both.upstreams) == 1

    run_with_clock(run)


def test_the_rest_of_a_request_whose_response_is_whole_is_not_recorded(tmp_path: Path) -> None:
    async def run() -> None:
        async with ends(str(tmp_path), fsync=True) as both:
            both.server.data_received(REQUEST.replace(b"Content-Length: ", b"Content-Length: 10000"))
            await steps()
            connection, wire = both.upstreams[0]
            connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
            both.server.data_received(b"x" * 300_000)
            while not both.client.written:
                both.server.data_received(b"y")
                await asyncio.sleep(0)
            assert both.client.written.endswith(b"no") and wire.closed and b"x" * 9 not in wire.written

    asyncio.run(run())
    (segment,) = (tmp_path / "spool").glob("*.spool")
    assert b"x" * 9 not in segment.read_bytes()
    assert recorded(str(tmp_path)).outcome == "complete"


def test_a_mistake_of_ours_keeps_nobody_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            with patch.object(ResponseFields, "lines", side_effect=KeyError("on purpose")):
                both.upstreams[0][0].data_received(RESPONSES["length"])
            assert both.upstreams[0][1].closed and not both.state.tasks
            return bytes(both.client.written)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 500 ")
    assert "on purpose" in caplog.text
    assert recorded(str(tmp_path)).outcome == "interrupted"


def test_a_mistake_of_ours_in_a_stream_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bytes:
        async with ends(str(tmp_path)) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, wire = both.upstreams[0]
            connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            with patch.object(Recording, "response_body", side_effect=KeyError("on purpose")):
                connection.data_received(b"5\r\nworld\r\n")
            assert wire.closed and both.client.closed and not both.state.tasks
            return bytes(both.client.written)

    assert asyncio.run(run()).endswith(b"\r\n\r\n5\r\nhello\r\n")
    assert "on purpose" in caplog.text
    assert recorded(str(tmp_path)).outcome == "interrupted"


def test_an_app_that_is_started_again(tmp_path: Path) -> None:
    app = app_for(str(tmp_path))

    async def run() -> None:
        async with ends(str(tmp_path), app=app) as both:
            await both.give(both.server, REQUEST, (), at_once=False)
            connection, wire = both.upstreams[0]
            connection.data_received(RESPONSES["length"])
            await steps()
            assert both.client.written.endswith(b"hello world") and not wire.closed
        assert wire.closed, "with the app's other connections"

    for _ in range(2):
        asyncio.run(run())


async def status_600(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 600})
    await send({"type": "http.response.body"})


def test_a_status_of_an_app_that_is_none(tmp_path: Path) -> None:
    upstreams = {"up": {"app": "tests.test_direct:status_600"}}

    async def run() -> bytes:
        async with ends(str(tmp_path), config={"upstreams": upstreams}) as both:
            both.server.data_received(REQUEST)
            while not both.client.written:
                await asyncio.sleep(0)
            return bytes(both.client.written)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 502 ")
