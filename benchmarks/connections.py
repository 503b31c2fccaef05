"""The load generator's connections: each asks again as soon as it was answered."""

import asyncio
import math
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from benchmarks.messages import CHUNKS, MARK, TIME_DIGITS

# A stream that takes longer than this for its 100 chunks of 10 ms did not keep up.
KEPT_UP_NS = 1_100_000_000


@dataclass(slots=True)
class Run:
    """The figures while they come. Times are nanoseconds of the monotonic clock."""

    request: bytes
    measured: int
    end: int
    latencies: list[int] = field(default_factory=list)
    ttfts: list[int] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    requests: int = 0
    chunks: int = 0
    errors: int = 0
    first_error: str = ""
    due: int = 0
    in_time: int = 0

    def finished(self, begun: int, now: int) -> None:
        self.requests += 1
        if self.measured < now <= self.end:
            self.latencies.append(now - begun)

    def failed(self, error: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or error


@lru_cache(maxsize=64)
def _content_length(head: bytes) -> int | None:
    """The length of a good answer; None for a bad one."""
    status_line, *lines = head.lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    length = fields.get(b"content-length")
    return int(length) if status_line[9:12] == b"200" and length else None


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks again when it was answered, until the run's end."""

    __slots__ = ("_begun", "_run", "_transport", "ended", "in_flight")

    _transport: asyncio.Transport

    def __init__(self, run: Run) -> None:
        self._run = run
        self._begun = 0
        self.in_flight = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up(f"connection lost: {exc!r}")
        if not self.ended.done():
            self.ended.set_result(None)

    def give_up(self, error: str) -> None:
        """Close the connection; an answer that is still to come failed."""
        if self.in_flight:
            self.in_flight = False
            self._run.failed(error)
            self._ended(math.inf)
        self._transport.abort()

    def _ask(self) -> None:
        self.in_flight = True
        self._begun = time.monotonic_ns()
        self._transport.write(self._run.request)

    def _ended(self, now: float) -> None:
        """An answer ended, in failure never."""

    def _answered(self, now: int) -> None:
        self.in_flight = False
        self._run.finished(self._begun, now)
        if now < self._run.end:
            self._ask()
        else:
            self._transport.abort()


class Whole(Connection):
    """Answers with Content-Length."""

    __slots__ = ("_head", "_left")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head = b""
            length = _content_length(data[:end])
            if length is None:
                self.give_up(data[:200].decode("latin-1"))
                return
            self._left = length - (len(data) - end - 4)
        if self._left == 0:
            self._answered(time.monotonic_ns())


class Streamed(Connection):
    """Answers that are event streams. The chunks are counted by their marks, their framing is not looked at."""

    __slots__ = ("_chunks", "_tail")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._chunks = 0
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._count(data, now)
        self._tail = data[-5:] if len(data) >= 5 else (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n":
            self._tail = b""
            chunks, self._chunks = self._chunks, 0
            if chunks == CHUNKS:
                self._ended(now)
                self._answered(now)
            else:
                self.give_up(f"{chunks} chunks: {data[:200]!r}")

    def _count(self, data: bytes, now: int) -> None:
        chunks = data.count(MARK)
        self._chunks += chunks
        self._run.chunks += chunks


class Paced(Streamed):
    """Streams whose chunks carry their time of sending."""

    __slots__ = ("_cut",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._cut = b""

    def _count(self, data: bytes, now: int) -> None:
        if self._cut:
            data = self._cut + data
            self._cut = b""
        run = self._run
        at = data.find(MARK)
        while at >= 0:
            sent = data[at + 1 : at + 1 + TIME_DIGITS]
            if len(sent) < TIME_DIGITS:
                self._cut = data[at:]
                return
            if now > run.measured:
                run.delays.append(now - int(sent))
                if self._chunks == 0:
                    run.ttfts.append(now - self._begun)
            self._chunks += 1
            run.chunks += 1
            at = data.find(MARK, at + 1)

    def _ended(self, now: float) -> None:
        run = self._run
        if self._begun > run.measured and self._begun + KEPT_UP_NS <= run.end:
            run.due += 1
            run.in_time += now - self._begun <= KEPT_UP_NS


KINDS: dict[str, type[Connection]] = {"json": Whole, "stream": Streamed, "paced": Paced, "hold": Streamed}
