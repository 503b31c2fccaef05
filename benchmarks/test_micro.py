"""What the single steps cost, with pytest-benchmark (the extra `benchmarks`): `pytest benchmarks/test_micro.py`.

Not part of the tests: `testpaths` leaves this folder out. Compare runs on one machine only, with
`--benchmark-autosave` and `--benchmark-compare`.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from benchmarks.conversations import (
    JSON_HEADERS,
    REQUEST_HEADERS,
    STREAM_HEADERS,
    Call,
    agent,
    long_conversations,
    record,
    short_turns,
    streamed_turns,
)
from llmproxy import headers
from llmproxy.capture.exchange import Exchange, ExchangeIds
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.tee import Tee
from llmproxy.ingest import read
from llmproxy.metrics import Metrics
from llmproxy.reconstruct.sse import EventStream
from llmproxy.store.open_database import open_database
from llmproxy.store.recorder import DatabaseRecorder

T = TypeVar("T")

CALLS: dict[str, Call] = {
    "short": next(short_turns(1)),
    "100 chunks": next(streamed_turns(1, 100)),
    "200 messages": next(long_conversations(1, 1)),
    "agent's 100th turn": list(agent(100))[-1],
}


class Benchmark(Protocol):
    """pytest-benchmark's fixture, which has no types."""

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T: ...

    def pedantic(self, function: Callable[..., T], *, setup: Callable[[], Any], rounds: int) -> T: ...


calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def test_request_headers(benchmark: Benchmark) -> None:
    defaults = ((b"authorization", b"Bearer sk-other"),)
    merged = benchmark(headers.request_headers, REQUEST_HEADERS, b"upstream:443", defaults, frozenset((b"host",)))
    assert merged[0] == (b"host", b"upstream:443")


def test_response_headers(benchmark: Benchmark) -> None:
    assert benchmark(headers.response_headers, JSON_HEADERS, 200) == list(JSON_HEADERS)


def test_redact_headers(benchmark: Benchmark) -> None:
    assert (b"authorization", headers.REDACTED) in benchmark(headers.redact_headers, REQUEST_HEADERS)


@pytest.fixture
def tee(tmp_path: Path) -> Iterator[Tee]:
    spool = SpoolWriter(tmp_path / "spool")
    yield Tee(spool, Metrics(), max_body_bytes=32 * 1024 * 1024)
    spool.close()


@calls
def test_spool(benchmark: Benchmark, tee: Tee, call: Call) -> None:
    """A whole exchange into the spool: its beginning and its end are written, what is between waits for company."""

    async def in_event_loop() -> None:
        benchmark(record, tee, call)

    asyncio.run(in_event_loop())
    assert tee.metrics.spool_errors == 0


def test_sse_parse(benchmark: Benchmark) -> None:
    """100 events that came one by one."""
    pieces = CALLS["100 chunks"].response

    def parse() -> int:
        events = EventStream()
        return sum(len(events.feed(piece)) for piece in pieces) + len(events.finish())

    assert benchmark(parse) == len(pieces)


@calls
def test_reconstruct(benchmark: Benchmark, call: Call) -> None:
    assert benchmark(read, _exchange(call, "0" * 26)).turn is not None


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@calls
def test_store(benchmark: Benchmark, tmp_path: Path, call: Call, known: bool) -> None:
    """One turn into the database, in a transaction of its own; `known`: with messages that it has already."""
    ids = ExchangeIds()
    db = open_database(tmp_path / "logs.db")
    count = 0

    def reading() -> tuple[tuple[Exchange, Any], dict[str, Any]]:
        nonlocal count
        count += 1
        request = call.request if known else call.request.replace(b"lorem", b"lorem%d" % count)
        exchange = _exchange(Call(request, call.response, call.streamed), ids.new())
        return (exchange, read(exchange)), {}

    def write(exchange: Exchange, read_as: Any) -> None:
        with db.atomic():
            DatabaseRecorder(db, "failed").write(exchange, read_as)

    if known:
        write(*reading()[0])
    benchmark.pedantic(write, setup=reading, rounds=30)
    assert db["turns"].count == count
    db.close()


def _exchange(call: Call, exchange_id: str) -> Exchange:
    """A call as it comes from the spool."""
    return Exchange(
        id=exchange_id,
        upstream="default",
        method="POST",
        path="/v1/chat/completions",
        client=None,
        started=1790000000.0,
        request_headers=tuple(REQUEST_HEADERS),
        request_body=call.request,
        status=200,
        response_headers=tuple(STREAM_HEADERS if call.streamed else JSON_HEADERS),
        response_body=[(at * 1000, piece) for at, piece in enumerate(call.response)],
        outcome="complete",
        duration_us=1_000_000,
        request_bytes=len(call.request),
        response_bytes=sum(map(len, call.response)),
    )
