"""The spool: the durable queue of exchanges on disk between forwarding and ingesting. This is its writing half.

A spool is a folder of segments, `<ULID>.spool`. A segment belongs to the process that made it, which holds a lock
(flock) on it as long as it may write to it: whoever gets the lock knows that the writer is gone. An exchange lies in
one segment from beginning to end, so a segment that is read whole, and whose writer is gone, can be deleted.

A segment is made of records:

    @KIND EXCHANGE MICROSECONDS LENGTH CRC32\n
    PAYLOAD (LENGTH bytes)\n

KIND is `request`, `request_body`, `request_body_again`, `response`, `response_body` or `end`; MICROSECONDS count from
the beginning of the exchange; the CRC covers the line before it and the payload. Heads are HTTP's own text, after lines
of ours and an empty line; bodies are the bytes that passed, a record for each piece. Bytes of a request's body that lie
in the segment already are named in `request_body_again`, a line for each run: the offset of the `request_body` record,
where in its payload the run starts, and its length. So `less` reads a segment, and a torn tail is known for what it is.

A short exchange takes two records: `whole_request` is a `request`, an empty line and the body; `whole_response` is a
`response`, an empty line, an `end`, an empty line and the body.

A record that was written survives the death of the process, however it dies, because it is in the page cache; with
`fsync` it survives the machine's too.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from llmproxy.capture.back_references import SMALLEST_BYTES, Bodies, Body, Place
from llmproxy.capture.exchange import ExchangeIds

VERSION = b"3"
# The first had no `request_body_again`, the second no `whole_request` and no `whole_response`.
READABLE_VERSIONS = (b"1", b"2", VERSION)
MAGIC = b"llmproxy spool %b\n" % VERSION
SEGMENT_BYTES = 16 * 1024 * 1024
BUFFER_BYTES = 64 * 1024
# Above this, joining costs more than `writev`; IOV_MAX of it is the most that POSIX promises on Linux and macOS.
JOINED_BYTES = 64 * 1024
_MOST_PIECES = 1024
# How long a piece of a body may wait for company before it is written. The beginning and the end do not wait.
FLUSH_SECONDS = 0.02

logger = logging.getLogger("llmproxy.spool")


class SpoolError(OSError):
    """An exchange cannot be recorded."""


class Segment:
    """One file of the spool, open for writing and locked by us."""

    __slots__ = (
        "bodies",
        "exchanges",
        "failures",
        "fd",
        "path",
        "request_bytes",
        "requests",
        "response_bytes",
        "responses",
        "size",
        "waiting",
        "whole",
    )

    def __init__(self, folder: Path, name: str, fsync: bool) -> None:
        # Locked before it has its name, so that a reader never finds it without its lock.
        unnamed = folder / f".{name}.new"
        self.path = folder / f"{name}.spool"
        self.fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(self.fd, [MAGIC])
            os.rename(unnamed, self.path)
            if fsync:
                _sync_folder(folder)
        except OSError:
            os.close(self.fd)
            unnamed.unlink(missing_ok=True)
            raise
        self.size = len(MAGIC)
        self.exchanges = 0
        self.failures = 0  # writes that lost records
        self.requests: list[bytes] = []  # records to be written
        self.request_bytes = 0
        self.responses: list[tuple[bytes, bytes, int, bytes]] = []  # what makes the records behind those
        self.response_bytes = 0  # of their payloads
        self.bodies = Bodies(self.fd)
        self.waiting: list[Callable[[], None]] = []  # for the next write
        self.whole = False  # the next write is of responses too

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1  # what comes too late fails, and is not written into a file that has the number by then


class SpoolWriter:
    """Appends records to the spool, for one process.

    - `folder`: made where it is missing, with mode 0700.
    - `fsync`: `durable` then waits until the disk has what was written.
    - `on_error`: called with the error and the number of records that were lost by it.

    Not for use from several threads: it lives in the event loop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fsync: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
        on_error: Callable[[OSError, int], None] = lambda error, records: None,
    ) -> None:
        self._folder = folder
        self.fsync = fsync
        self._segment_bytes = segment_bytes
        self._on_error = on_error
        self._ids = ExchangeIds()
        self._current: Segment | None = None
        self._open: set[Segment] = set()
        self._retired: list[Segment] = []
        self._timer: asyncio.TimerHandle | None = None
        self._look_again = 0.0
        self._sync: asyncio.Task[None] | None = None
        self._next_sync: asyncio.Task[None] | None = None

    def begin(self) -> Segment:
        """The segment for a new exchange; pass it to what appends, and to `release` at the end. Raises `SpoolError`."""
        segment = self._current
        if (
            segment is None
            or segment.size >= self._segment_bytes
            or (not segment.requests and self._is_removed(segment))
        ):
            try:
                make_folder(self._folder)
                segment = Segment(self._folder, self._ids.new(), self.fsync)
            except OSError as exc:
                self._on_error(exc, 1)
                raise SpoolError(exc.errno, exc.strerror, str(self._folder)) from exc
            self._open.add(segment)
            self._retire(self._current)
            self._current = segment
        segment.exchanges += 1
        return segment

    def _is_removed(self, segment: Segment) -> bool:
        # A segment that somebody removed would take what is written and keep none of it. To look now and then is
        # enough: what was written a moment before it was removed is gone too.
        now = asyncio.get_running_loop().time()
        if now < self._look_again:
            return False
        self._look_again = now + FLUSH_SECONDS
        return not os.fstat(segment.fd).st_nlink

    def append_request(self, segment: Segment, kind: bytes, exchange: bytes, nanoseconds: int, payload: bytes) -> int:
        """Add a record of a request. It is on disk after `flush_requests`, or by itself a moment later. Returns the
        length of its line."""
        record = _record(kind, exchange, nanoseconds, payload)
        segment.requests += record
        segment.request_bytes += sum(map(len, record))
        self._flush_soon(segment)
        return len(record[0])

    def append_response(self, segment: Segment, kind: bytes, exchange: bytes, nanoseconds: int, payload: bytes) -> None:
        """Add a record of a response. It is on disk after `flush`, or by itself a moment later."""
        # The record is made with those of others, when they are written: between the reading and the writing of a
        # stream's sockets the same work takes much longer, since the processor's caches hold little of it.
        segment.responses.append((kind, exchange, nanoseconds, payload))
        payload_bytes = segment.response_bytes = segment.response_bytes + len(payload)
        if payload_bytes > BUFFER_BYTES or self._timer is None:
            self._flush_soon(segment)

    def _flush_soon(self, segment: Segment) -> None:
        if segment.request_bytes + segment.response_bytes > BUFFER_BYTES:
            self.flush(segment)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush_all)

    def append_request_body(
        self, segment: Segment, exchange: bytes, nanoseconds: int, piece: bytes, body: Body | None
    ) -> Body | None:
        """Add a piece of a request's body: what of it lies in the segment already only by where that is.

        `body` is what this returned for the piece before; None for the first.
        """
        if body is None:
            if len(piece) < SMALLEST_BYTES:
                self.append_request(segment, b"request_body", exchange, nanoseconds, piece)
                return None
            body = segment.bodies.begin(piece)
        repeated, rest = body.repeated(piece)
        if repeated:
            lines = b"\n".join(b"%d %d %d" % (place.record, place.start, place.length) for place in repeated)
            self.append_request(segment, b"request_body_again", exchange, nanoseconds, lines)
        if rest:
            record = segment.size + segment.request_bytes
            payload = record + self.append_request(segment, b"request_body", exchange, nanoseconds, rest)
            body.places.append(Place(record, payload, 0, len(rest)))
        return body

    def flush(self, segment: Segment) -> bool:
        """Write what waits. Returns whether all of it was written; what was not is lost, and `on_error` was told."""
        if segment.responses:
            responses, segment.responses, segment.response_bytes = segment.responses, [], 0
            for response in responses:
                segment.requests += _record(*response)
        return self.flush_requests(segment)

    def flush_requests(self, segment: Segment) -> bool:
        """As `flush`, for requests alone: one that begins need not wait until the pieces of all streams are written."""
        if not segment.requests:
            return True
        buffer, segment.requests, segment.request_bytes = segment.requests, [], 0
        try:
            segment.size += _write_all(segment.fd, buffer)
        except OSError as exc:
            segment.failures += 1
            segment.bodies.forget()
            self._cut_back(segment)
            self._on_error(exc, len(buffer) // 3)
            return False
        return True

    def when_written(self, segment: Segment, callback: Callable[[], None]) -> None:
        """Write what waits, in one go with what all others add in this step of the event loop, and call back: under
        load one write serves dozens of exchanges."""
        segment.whole = True
        self.when_requests_written(segment, callback)

    def when_requests_written(self, segment: Segment, callback: Callable[[], None]) -> None:
        """As `when_written`, for requests alone."""
        if segment.exchanges > 1:
            self._wait(segment, callback)
        else:
            self._write(segment)
            callback()

    def _write(self, segment: Segment) -> None:
        if segment.whole:
            segment.whole = False
            self.flush(segment)
        else:
            self.flush_requests(segment)

    def _write_for_all(self, segment: Segment) -> None:
        waiting, segment.waiting = segment.waiting, []
        self._write(segment)
        callbacks = iter(waiting)
        try:
            for callback in callbacks:
                callback()
        finally:  # where one raised, the others have no part in that
            for callback in callbacks:
                self._wait(segment, callback)

    def _wait(self, segment: Segment, callback: Callable[[], None]) -> None:
        if not segment.waiting:
            asyncio.get_running_loop().call_soon(self._write_for_all, segment)
        segment.waiting.append(callback)

    async def durable(self, segment: Segment) -> None:
        """With `fsync`, wait until the disk has everything written so far. All who call while one sync runs share the
        next."""
        if not self.fsync:
            return
        if self._next_sync is None:
            self._next_sync = asyncio.get_running_loop().create_task(self._fdatasync(self._sync))
        await asyncio.shield(self._next_sync)

    async def _fdatasync(self, before: asyncio.Task[None] | None) -> None:
        # Never in the event loop: it was seen to stall for 244 ms.
        if before is not None:
            await asyncio.wait([before])
        self._sync, self._next_sync = self._next_sync, None
        retired, self._retired = self._retired, []
        try:
            for segment in (*self._open, *retired):
                await asyncio.to_thread(os.fdatasync, segment.fd)
        except OSError as exc:
            for segment in (*self._open, *retired):
                segment.failures += 1
            self._on_error(exc, 0)
        finally:
            for segment in retired:
                segment.close()

    def release(self, segment: Segment) -> None:
        """An exchange of the segment has ended."""
        segment.exchanges -= 1
        if segment is not self._current:
            self._retire(segment)

    def close(self) -> None:
        """Write what waits and give up all segments; what is still in flight then counts as interrupted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for segment in (*self._open, *self._retired):
            self.flush(segment)
            if self.fsync:
                os.fdatasync(segment.fd)
            segment.close()
        self._open.clear()
        self._retired.clear()
        self._current = None

    def _flush_all(self) -> None:
        self._timer = None
        for segment in self._open:
            self.flush(segment)

    def _retire(self, segment: Segment | None) -> None:
        if segment is not None and segment.exchanges == 0 and segment in self._open:
            self.flush(segment)
            self._open.discard(segment)
            if self.fsync:
                self._retired.append(segment)
            else:
                segment.close()

    def _cut_back(self, segment: Segment) -> None:
        # Part of a record may have been written (a full disk): without it the records after it stay readable.
        try:
            os.ftruncate(segment.fd, segment.size)
            os.lseek(segment.fd, segment.size, os.SEEK_SET)
        except OSError:
            logger.exception("%s: cannot be cut back to its last whole record", segment.path)


def _record(kind: bytes, exchange: bytes, nanoseconds: int, payload: bytes) -> tuple[bytes, bytes, bytes]:
    """A record's line, its payload and its end."""
    line = b"@%b %b %d %d " % (kind, exchange, nanoseconds // 1000, len(payload))
    return b"%b%08x\n" % (line, crc32(payload, crc32(line))), payload, b"\n"


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone.

    `Path.mkdir(mode, parents=True)` gives its mode to the last one only.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, pieces: list[bytes]) -> int:
    if len(pieces) <= _MOST_PIECES and sum(map(len, pieces)) > JOINED_BYTES:
        length = sum(map(len, pieces))
        written = os.writev(fd, pieces)
        if written == length:
            return length
        view = memoryview(b"".join(pieces))[written:]
    else:
        data = b"".join(pieces)
        length = len(data)
        view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return length
