"""Back-references: where in a segment the beginning of a body lies already.

An agent sends its whole conversation again with each request. To write all of it again was most of what capturing such
a request costs: for 200 KB, a hundred microseconds and more go into fresh pages of the page cache, where to compare
them with what was written before takes twenty.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

SMALLEST_BYTES = 16 * 1024
"""Of a body's first piece, and of what must be alike: less is as well written again."""
_REMEMBERED_BODIES = 8
# A body in more places than this is not referred to: the next one is written whole, and the following refer to that.
_MOST_PLACES = 64
_CHUNK = 64 * 1024
# Read into again and again: fresh memory for each comparison cost ten times as much as comparing. All that read are in
# one event loop, and none keeps what it read.
_SCRATCH = memoryview(bytearray(_CHUNK))


@dataclass(frozen=True, slots=True)
class Place:
    """A run of a body's bytes in a segment.

    - `record`: where the record `request_body` begins that holds it.
    - `payload`: where that record's payload begins.
    - `start`, `length`: of the run within the payload.
    """

    record: int
    payload: int
    start: int
    length: int


class Bodies:
    """The bodies that were written to one segment last. `fd` is the segment's, open for reading."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last: deque[list[Place]] = deque(maxlen=_REMEMBERED_BODIES)

    def forget(self) -> None:
        """Some of what was written is lost."""
        self._last.clear()

    def begin(self, piece: bytes) -> "Body":
        """For a body that begins with a piece."""
        best: list[Place] = []
        found: list[Place] = []
        most = SMALLEST_BYTES - 1
        for places in reversed(self._last):
            if len(places) <= _MOST_PLACES:
                runs = list(_alike(self._fd, places, 0, piece))
                alike = sum(run.length for run in runs)
                if alike > most:
                    best, found, most = places, runs, alike
                if alike == len(piece):
                    break
        body = Body(self._fd, best, found)
        self._last.append(body.places)
        return body


class Body:
    """One body on its way into the segment; `places` is where its bytes are, so far.

    - `like`: the places of another body; `found`: the runs of them that the first piece begins with.
    """

    __slots__ = ("_at", "_fd", "_found", "_like", "places")

    def __init__(self, fd: int, like: list[Place], found: list[Place]) -> None:
        self._fd = fd
        self._like = list(like)
        self._found: list[Place] | None = found
        self._at = 0  # as many of its bytes are as those of the other body
        self.places: list[Place] = []

    def repeated(self, piece: bytes) -> tuple[list[Place], bytes]:
        """The places of the beginning of a piece, as far as it goes on like the other body, and its rest. To be asked
        for each piece in turn, the first included."""
        if not self._like:
            return [], piece
        found = self._found
        if found is None:
            found = list(_alike(self._fd, self._like, self._at, piece))
        self._found = None
        alike = sum(place.length for place in found)
        self._at += alike
        self.places += found
        if alike < len(piece):
            self._like = []
        return found, piece[alike:]


def _alike(fd: int, places: list[Place], skip: int, piece: bytes) -> Iterator[Place]:
    """The runs, from `skip` bytes into `places` on, that the piece begins with."""
    at = 0
    for place in places:
        if skip >= place.length:
            skip -= place.length
            continue
        start, length = place.start + skip, min(place.length - skip, len(piece) - at)
        skip = 0
        alike = _alike_bytes(fd, place.payload + start, piece, at, length)
        if alike:
            yield Place(place.record, place.payload, start, alike)
        at += alike
        if alike < length or at == len(piece):
            return


def _alike_bytes(fd: int, offset: int, piece: bytes, at: int, length: int) -> int:
    done = 0
    while done < length:
        size = min(_CHUNK, length - done)
        theirs = _SCRATCH[: os.preadv(fd, [_SCRATCH[:size]], offset + done)]
        if len(theirs) < size or not piece.startswith(theirs, at + done):
            return done + _common(piece[at + done : at + done + size], bytes(theirs))
        done += size
    return done


def _common(first: bytes, second: bytes) -> int:
    """How many bytes both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
