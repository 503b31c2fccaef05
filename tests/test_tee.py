"""The tee: what it keeps, what it leaves out, and what it does when the spool cannot be written."""

import asyncio
import errno
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.capture import spool
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.headers import SecretNames
from llmproxy.metrics import Metrics
from tests.proxy import proxy_in_thread
from tests.raw_upstream import Connection, RawRequest, answer, raw_upstream
from tests.test_spool import bodies, exchange, read, segment, write


def head(target: bytes = b"/v1/x", *headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead("up", None, "POST", target, headers)


def test_credentials_are_never_written(tmp_path: Path) -> None:
    secrets = [(b"authorization", b"Bearer sk-1"), (b"x-mine", b"sk-2"), (b"X-Mine", b"sk-3"), (b"x-a", b"kept")]
    secrets += [(b"referer", b"https://u:sk-7@h/?key=sk-8&a=kept"), (b"x-portkey-config", b'{"api_key":"sk-9"}')]

    def test(tee: Tee, writer: SpoolWriter) -> None:
        tee.secret_names = SecretNames(frozenset((b"x-mine",)))
        recording = tee.begin(head(b"/v1/x?api_key=sk-4&a=kept", *secrets))
        recording.response(200, [(b"Set-Cookie", b"session=sk-5"), (b"X-Mine", b"sk-6")])
        recording.end("complete")

    write(tmp_path, test).close()
    assert b"sk-" not in segment(tmp_path).read_bytes()
    (got,) = read(tmp_path)
    assert got.path == "/v1/x?api_key=[redacted]&a=kept"
    assert [name for name, _ in got.request_headers] == [name for name, _ in secrets]
    assert dict(got.request_headers)[b"referer"] == b"https://[redacted]@h/?key=[redacted]&a=kept"


@pytest.mark.parametrize("first", ["begins", "ends"])
@pytest.mark.parametrize("short", [True, False])
def test_who_is_called_back_finds_on_disk_what_it_asked_for(tmp_path: Path, short: bool, first: str) -> None:
    found: dict[str, bytes] = {}

    async def run() -> None:
        writer = SpoolWriter(tmp_path)
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
        tee.begin(head())  # somebody who would share a write
        ending = tee.begin(head())
        if short:
            ending.whole_response(200, [b"x-a: b"], b"piece")
        else:
            ending.response(200, [(b"x-a", b"b")])
            ending.response_body(b"piece")
        beginning = tee.begin(head(b"/begun"))

        def look(what: str) -> None:
            found[what] = segment(tmp_path).read_bytes()

        def begin() -> None:
            beginning.when_written(lambda: look("begins"))

        def end() -> None:
            assert ending.when_complete(lambda: look("ends"))

        for step in (begin, end) if first == "begins" else (end, begin):
            step()
        assert not found, "all of a step share a write"
        await asyncio.sleep(0)
        writer.close()

    asyncio.run(run())
    assert b" /begun " in found["begins"]
    assert b"piece" in found["ends"] and b"outcome: complete" in found["ends"]


def test_a_request_does_not_wait_for_the_pieces_of_streams(tmp_path: Path) -> None:
    async def run() -> None:
        writer = SpoolWriter(tmp_path)
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
        streams = [tee.begin(head()) for _ in range(2)]
        for recording in streams:
            recording.response(200, [])
        assert streams[0].when_complete(lambda: None)  # this one had all written that was there
        await asyncio.sleep(0)
        streams[1].response_body(b"piece")
        beginning = tee.begin(head(b"/begun"))
        await beginning.written()
        on_disk = segment(tmp_path).read_bytes()
        assert b"/begun" in on_disk and b"piece" not in on_disk
        writer.close()
        assert b"piece" in segment(tmp_path).read_bytes()

    asyncio.run(run())


def test_large_pieces_do_not_gather_in_memory(tmp_path: Path) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        recording = tee.begin(head())
        recording.response(200, [])
        for _ in range(10):
            recording.response_body(b"x" * 40_000)
        assert segment(tmp_path).stat().st_size > 10 * 40_000 - spool.BUFFER_BYTES
        recording.response_body(b"small")
        assert b"small" not in segment(tmp_path).read_bytes(), "it waits for company"

    write(tmp_path, test).close()


def test_the_first_end_wins_and_is_counted_once(tmp_path: Path) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        recording = tee.begin(head())
        recording.end("client_gone")
        recording.end("interrupted", "too late")
        assert tee.metrics.exchanges == {("up", "client_gone", 0): 1} and tee.metrics.in_flight == 0

    write(tmp_path, test).close()
    assert [(each.outcome, each.error) for each in read(tmp_path)] == [("client_gone", None)]


def test_bodies_are_cut_at_the_limit_and_counted_whole(tmp_path: Path) -> None:
    def test(tee: Tee, writer: SpoolWriter) -> None:
        tee.max_body_bytes = 5
        recording = tee.begin(head())
        for piece in (b"1234", b"", b"56", b"789"):
            recording.request_body(piece)
            recording.response_body(piece)
        recording.end("complete")

    write(tmp_path, test).close()
    (got,) = read(tmp_path)
    assert (got.request_body, got.request_bytes, got.request_truncated) == (b"12345", 9, True)
    assert ([piece for _, piece in got.response_body], got.response_bytes) == ([b"1234", b"5"], 9)
    assert got.response_truncated and got.error is None


def test_without_a_spool_exchanges_are_only_counted() -> None:
    tee = Tee(None, Metrics(), max_body_bytes=5)
    recording = tee.begin(head())
    recording.request_body(b"x")
    recording.request_written()
    recording.response(200, [])
    recording.response_body(b"yy")
    recording.end("complete")
    asyncio.run(recording.durable())
    assert tee.metrics.exchanges == {("up", "complete", 200): 1}
    assert (tee.metrics.request_bytes["up"], tee.metrics.response_bytes["up"]) == (1, 2)


@pytest.mark.parametrize("by", ["a large body", "a moment's wait"])
def test_a_request_that_was_lost_before_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Records are written by the way, where many wait and by a timer: what fails then is not forgotten."""
    lost: list[int] = []
    writer = SpoolWriter(tmp_path, on_error=lambda error, records: lost.append(records))

    def full(fd: int, pieces: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> None:
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
        exchange(tee, b"before")
        real = spool._write_all
        monkeypatch.setattr(spool, "_write_all", full)
        recording = tee.begin(head())
        if by == "a large body":
            recording.request_body(b"x" * 100_000)
        while not lost:
            await asyncio.sleep(0)
        monkeypatch.setattr(spool, "_write_all", real)
        recording.request_written()
        assert tee.metrics.unrecorded == 1
        recording.end("complete")
        exchange(tee, b"after")

    asyncio.run(run())
    writer.close()
    assert lost == [2 if by == "a large body" else 1]
    assert bodies(read(tmp_path)) == [b"before", b"after"]


@pytest.mark.parametrize("on_spool_error", ["forward", "refuse"])
def test_a_full_disk_stops_no_exchange_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_spool_error: str
) -> None:
    real = spool._write_all
    is_full = threading.Event()

    def write_all(fd: int, pieces: list[bytes]) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, pieces)

    monkeypatch.setattr(spool, "_write_all", write_all)
    with raw_upstream(lambda c, r: c.send(answer(b"x"))) as up:
        configured: dict[str, Any] = {
            "upstreams": {"up": {"base_url": up.url}},
            "capture": {"on_spool_error": on_spool_error},
        }
        with proxy_in_thread(tmp_path, **configured) as proxy, httpx2.Client(base_url=proxy.url) as client:
            statuses = []
            for number in range(4):
                if number in (1, 2):
                    is_full.set()
                else:
                    is_full.clear()
                statuses.append(client.post(f"/v1/{number}", content=b"{}").status_code)
            assert statuses == ([200] * 4 if on_spool_error == "forward" else [200, 503, 503, 200])
            metrics = client.get("/_llmproxy/metrics").text
            assert "llmproxy_spool_errors_total 2\n" in metrics
            assert f"llmproxy_unrecorded_total {2 if on_spool_error == 'forward' else 0}\n" in metrics
            assert [each.path for each in proxy.exchanges()] == ["/v1/0", "/v1/3"]
        assert len(up.requests) == statuses.count(200)


def test_what_must_be_recorded_and_is_not_never_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while an exchange is in flight: under `refuse` the client is not given the last byte."""
    is_full, begun = threading.Event(), threading.Event()
    real = spool._write_all

    def write_all(fd: int, pieces: list[bytes]) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, pieces)

    def handler(connection: Connection, request: RawRequest) -> None:
        if b"/empty" in request.request_line:
            is_full.set()
            connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif b"/short" in request.request_line:
            is_full.set()
            connection.send(answer(b"{}"))
        else:
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
            begun.wait(20)
            is_full.set()
            connection.send(b"cd")

    monkeypatch.setattr(spool, "_write_all", write_all)
    with raw_upstream(handler) as up:
        configured: dict[str, Any] = {
            "upstreams": {"up": {"base_url": up.url}},
            "capture": {"on_spool_error": "refuse"},
        }
        with proxy_in_thread(tmp_path, **configured) as proxy, httpx2.Client(base_url=proxy.url) as client:
            with client.stream("POST", "/v1/flying", content=b"{}") as response:
                pieces = response.iter_raw()
                got = next(pieces)
                begun.set()
                with pytest.raises(httpx2.RemoteProtocolError):
                    got += b"".join(pieces)
            assert got == b"ab"
            # Nothing of these was sent yet, so the client is told why.
            for path in ("/v1/empty", "/v1/short"):
                is_full.clear()
                refused = client.post(path, content=b"{}")
                assert (refused.status_code, refused.headers["x-llmproxy-error"]) == (503, "spool_unavailable")


def test_the_clock_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations are the monotonic clock's, ids never go back, and nothing is lost over it."""
    offset = 0

    def at_upstream(connection: Connection, request: RawRequest) -> None:
        nonlocal offset
        offset += int(request.body)
        connection.send(answer(b"{}"))

    real_ns, real = time.time_ns, time.time
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + offset * 10**9)
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    jumps = [0, 86_400, -2 * 86_400, 3600, -3600, 0]
    with raw_upstream(at_upstream) as up, proxy_in_thread(tmp_path, upstreams={"up": {"base_url": up.url}}) as proxy:
        begun = time.monotonic()
        for jump in jumps:
            assert httpx2.post(f"{proxy.url}/v1/x", content=str(jump), trust_env=False).status_code == 200
        took = time.monotonic() - begun
        exchanges = proxy.exchanges()
    assert [each.request_body.decode() for each in exchanges] == [str(jump) for jump in jumps]
    assert all(each.duration_us is not None and 0 < each.duration_us / 1e6 < took for each in exchanges)
    assert sorted(each.id for each in exchanges) == [each.id for each in exchanges]
    assert exchanges[2].started > exchanges[0].started + 86_000 > exchanges[3].started + 86_000
