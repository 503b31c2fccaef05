"""Reads one segment of the spool: from records back to exchanges, whatever happened to the file or its writer."""

import fcntl
import logging
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmproxy.capture.exchange import Exchange
from llmproxy.capture.records import LINE, LONGEST_LINE, Pending, Span, exchange_of, is_whole, started_of
from llmproxy.capture.spool import MAGIC, VERSION

logger = logging.getLogger("llmproxy.spool")

_VERSION = re.compile(rb"llmproxy spool (\d{1,9})\n")
_BLOCK = 256 * 1024
# An exchange whose records lie no further apart is read in one go.
_SPAN = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recorded:
    """An exchange that lies in the spool: `load` reads its bytes. `ended` sorts exchanges as they ended, whichever
    process recorded them."""

    id: str
    ended: float
    segment: "SegmentReader"
    pending: Pending

    @property
    def position(self) -> int:
        """Where its last record lies in the segment."""
        return self.pending.end[1] if self.pending.end is not None else 0

    @property
    def size(self) -> int:
        """Bytes of its bodies in the spool."""
        return sum(r[2] for r in self.pending.request_body) + sum(r[2] for r in self.pending.response_body)

    def load(self) -> Exchange:
        """The exchange. Raises `ValueError` for records that are whole but make no sense (another version's)."""
        return exchange_of(self.id, self.pending, self.segment.payloads(self.pending))

    def acknowledge(self) -> None:
        """It is in the database, or kept aside."""
        self.segment.acknowledge(self)

    def set_aside(self) -> None:
        """Keep its part of the segment in the folder `damaged`."""
        self.segment.set_aside(self.pending.first, self.pending.until + 1)


class SegmentReader:
    """Reads one segment, from where its ingester left off, as far as it is written.

    The offset up to which all is ingested is kept beside the segment (`.ack`). What is read twice is told by its id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ack_path = path.with_suffix(".ack")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        ack = self._read_ack()
        self._offset = ack if len(MAGIC) < ack <= os.fstat(self._fd).st_size else len(MAGIC)
        self._acked = self._offset
        self._pending: dict[str, Pending] = {}
        self._ready: deque[Recorded] = deque()
        self._unfinished: dict[str, Pending] = {}  # handed out and not yet acknowledged
        self._places: dict[int, tuple[int, int] | None] = {}  # offset and length of payloads that are referred to
        self._last_ended = 0.0
        self._exhausted = False
        self._damaged = False
        self._stuck = False
        self.writer_gone = False

    def close(self) -> None:
        os.close(self._fd)

    def version(self) -> bytes:
        """The version of the format it is written in; ours where that cannot be read."""
        match = _VERSION.match(os.pread(self._fd, 64, 0))
        return match[1] if match else VERSION

    def size(self) -> int:
        """Bytes written so far. Once it is known that the writer is gone, no more will come."""
        if self._exhausted:
            return self._offset  # and it may have been deleted meanwhile
        if not self.writer_gone:
            # Asked before the size: whatever a writer that is gone wrote is there by now.
            self.writer_gone = self._lock()
        return os.fstat(self._fd).st_size

    def peek(self, until: int) -> "Recorded | None":
        """The next exchange that ended, in the order of the segment, among the records that begin before `until`.

        Once the writer is gone and all is read, those follow that never ended.
        """
        while not self._ready and not self._exhausted:
            if self._offset < until and self._scan():
                continue
            if self.writer_gone and self._offset >= os.fstat(self._fd).st_size:
                self._exhausted = True
                for exchange in list(self._pending):
                    self._end(exchange)
            break
        return self._ready[0] if self._ready else None

    def pop(self) -> "Recorded":
        """Take what `peek` gave."""
        recorded = self._ready.popleft()
        self._unfinished[recorded.id] = recorded.pending
        return recorded

    def acknowledge(self, recorded: Recorded) -> None:
        self._unfinished.pop(recorded.id, None)

    def put_back(self, recorded: Recorded) -> None:
        """The exchange could not be written anywhere: give it out again."""
        self._unfinished.pop(recorded.id, None)
        self._ready.appendleft(recorded)

    def save(self) -> None:
        """Remember how far all is acknowledged."""
        waiting = [*self._pending.values(), *self._unfinished.values(), *(recorded.pending for recorded in self._ready)]
        done = min((pending.first for pending in waiting), default=self._offset)
        if done > self._acked:
            try:
                self._ack_path.write_text(f"{done}\n")
                self._ack_path.chmod(0o600)
            except OSError as exc:  # a full disk; what is read again is told by its id
                logger.warning("%s: cannot be written: %s", self._ack_path, exc.strerror)
            self._acked = done

    @property
    def finished(self) -> bool:
        """Whether nothing more can come and nothing waits."""
        return self._exhausted and not self._ready and not self._unfinished

    def delete(self) -> None:
        """Remove a finished segment."""
        self._ack_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self.close()

    def _end(self, exchange: str) -> None:
        pending = self._pending.pop(exchange)
        last = pending.end[0] if pending.end is not None else pending.last_us
        # Ends are in order within a segment, whatever the clock did.
        self._last_ended = max(self._last_ended, pending.started + last / 1e6)
        self._ready.append(Recorded(exchange, self._last_ended, self, pending))

    def _scan(self) -> bool:
        """Take the records of one block. False where there is no whole record to go on with."""
        block = os.pread(self._fd, _BLOCK, self._offset)
        line = LINE.match(block)
        if line is not None and line.end() + int(line[4]) + 1 > len(block):
            block = self._read(self._offset, line.end() + int(line[4]) + 1)
            line = LINE.match(block)
        at = 0
        while line is not None:
            length, start = int(line[4]), line.end()
            if start + length + 1 > len(block) or not is_whole(line, block):
                break
            self._take(line, block, self._offset + at)
            at = start + length + 1
            line = LINE.match(block, at)
        self._offset += at
        return at > 0 or (self.writer_gone and self._skip_damage())

    def _take(self, line: re.Match[bytes], block: bytes, first: int) -> None:
        kind, exchange = line[1], line[2].decode()
        record = (int(line[3]), first + line.end() - line.start(), int(line[4]))
        if kind in (b"request", b"whole_request"):
            started = started_of(block[line.end() : line.end() + 64])
            begun = self._pending[exchange] = Pending(first, started, record, until=record[1] + record[2])
            if kind == b"whole_request":
                ours, head, body = _parts(block, line.end(), record)
                begun.request = (ours[0], ours[1], head[1] + head[2] - ours[1])
                begun.request_body.append(body)
            return
        pending = self._pending.get(exchange)
        if pending is None:
            if not self._damaged:
                return  # its request was acknowledged before the offset we began at: it is done
            # Or its request is what was damaged: what is left of it is not to vanish.
            pending = self._pending[exchange] = Pending(first, self._last_ended, (0, first, 0))
        pending.last_us = record[0]
        pending.until = record[1] + record[2]
        if kind == b"request_body":
            pending.request_body.append(record)
        elif kind == b"request_body_again":
            runs = block[line.end() : line.end() + record[2]].split(b"\n")
            # A place that is damaged is left out: `load` then says how much is missing.
            pending.request_body += [(record[0], *place) for run in runs if (place := self._place(run)) is not None]
        elif kind == b"response":
            pending.response = record
        elif kind == b"response_body":
            pending.response_body.append(record)
        elif kind == b"whole_response":
            pending.response, pending.end, body = _parts(block, line.end(), record)
            if body[2]:
                pending.response_body.append(body)
            self._end(exchange)
        elif kind == b"end":
            pending.end = record
            self._end(exchange)

    def _place(self, run: bytes) -> tuple[int, int] | None:
        """Offset and length of a run of bytes in an earlier record, if that is whole."""
        first, start, length = map(int, run.split(b" "))
        if first not in self._places:
            payload = None
            line = LINE.match(os.pread(self._fd, LONGEST_LINE, first))
            if line is not None and line[1] == b"request_body" and self._whole_record_at(first):
                payload = (first + line.end(), int(line[4]))
            self._places[first] = payload
        known = self._places[first]
        return (known[0] + start, length) if known is not None and start + length <= known[1] else None

    def _skip_damage(self) -> bool:
        """At the offset lies no whole record and nobody will write one: go on at the next one, keep the piece aside."""
        size = os.fstat(self._fd).st_size
        if self._offset >= size:
            return False
        at = self._offset
        while at < size:
            block = os.pread(self._fd, _BLOCK, at)
            # Not after a line break only: it may be the byte that is damaged.
            for match in LINE.finditer(block):
                where = at + match.start()
                if where > self._offset and self._whole_record_at(where):
                    return self._leave_out(where)
            if at + len(block) >= size:
                break
            at += len(block) - LONGEST_LINE
        return self._leave_out(size)

    def _whole_record_at(self, offset: int) -> bool:
        head = os.pread(self._fd, LONGEST_LINE, offset)
        line = LINE.match(head)
        if line is None:
            return False
        return is_whole(line, self._read(offset, line.end() + int(line[4]) + 1))

    def _read(self, offset: int, length: int) -> bytes:
        # Never more than there is: memory is taken for all that is asked for, and a damaged length asks for anything.
        return os.pread(self._fd, min(length, max(0, os.fstat(self._fd).st_size - offset)), offset)

    def _leave_out(self, until: int) -> bool:
        try:
            kept = self.set_aside(self._offset, until)
        except OSError as exc:
            # A full disk: the piece stays where it is until there is room; other segments go on and make it.
            if not self._stuck:
                logger.error("%s: %d damaged bytes cannot be kept aside yet: %s", self.path, until - self._offset, exc)
            self._stuck = True
            return False
        logger.warning("%s: %d damaged bytes at %d are kept in %s", self.path, until - self._offset, self._offset, kept)
        self._offset = until
        self._damaged = True
        return True

    def set_aside(self, start: int, until: int) -> Path:
        """Copy a piece of the segment into the folder `damaged`; where it is."""
        folder = self.path.parent / "damaged"
        folder.mkdir(mode=0o700, exist_ok=True)
        kept = folder / f"{self.path.stem}-{start}"
        fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            for at in range(start, until, _BLOCK):
                file.write(os.pread(self._fd, min(_BLOCK, until - at), at))
        return kept

    def payloads(self, pending: Pending) -> Callable[[Span], bytes]:
        base, length = pending.first, pending.until - pending.first
        if length <= _SPAN:
            span = os.pread(self._fd, length, base)
            return lambda record: (
                span[record[1] - base : record[1] - base + record[2]]
                if record[1] >= base
                else os.pread(self._fd, record[2], record[1])
            )
        return lambda record: os.pread(self._fd, record[2], record[1])

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _read_ack(self) -> int:
        try:
            return int(self._ack_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0


def _parts(block: bytes, start: int, record: Span) -> tuple[Span, Span, Span]:
    """The first two parts of a record's payload, each of which ends with an empty line, and the rest.

    `start`: where in the block the payload begins.
    """
    microseconds, offset, length = record
    ends = [block.find(b"\n\n", start, start + length)]
    ends.append(block.find(b"\n\n", ends[0] + 2, start + length) if ends[0] >= 0 else -1)
    first, second = (end - start if end >= 0 else length for end in ends)  # what was not written so makes no sense
    return (
        (microseconds, offset, first),
        (microseconds, offset + min(first + 2, length), max(second - first - 2, 0)),
        (microseconds, offset + min(second + 2, length), max(length - second - 2, 0)),
    )
