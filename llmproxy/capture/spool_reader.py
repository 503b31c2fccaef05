"""The reading half of the spool: all its segments, merged in the order in which exchanges ended."""

import heapq
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

from llmproxy.capture.exchange import CROCKFORD
from llmproxy.capture.segment_reader import Recorded, SegmentReader
from llmproxy.capture.spool import MAGIC, READABLE_VERSIONS, make_folder

logger = logging.getLogger("llmproxy.spool")

# A file that a writer was making when it died has this age at least.
_ABANDONED_SECONDS = 60


class SpoolReader:
    """Reads the whole spool, whichever processes write it. One at a time: `ingest` holds the spool's lock."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder
        self._segments: dict[str, SegmentReader] = {}
        self._foreign: set[str] = set()

    def exchanges(self, settle: float = 0.0) -> Iterator[Recorded]:
        """The exchanges that have ended since they were last read, in the order in which they ended; those of the last
        `settle` seconds are left for the next time.

        A conversation may be recorded by several processes, and its next request begins after its last response
        ended. So the sizes of all segments are taken twice: what lies below the first sizes is wanted, and whatever
        ended before it lies below the second ones, where the merge finds it first. A parent never comes after its
        child. Segments are opened when their time comes, so that memory does not grow with what waits.
        """
        self._remove_abandoned()
        names = sorted(entry.name for entry in os.scandir(self._folder) if entry.name.endswith(".spool"))
        unopened = deque((_created(name), name) for name in names)
        wanted: dict[SegmentReader, int] = {}
        sizes: dict[SegmentReader, int] = {}
        heap: list[tuple[float, str, str, SegmentReader]] = []
        active: set[SegmentReader] = set()

        def advance(segment: SegmentReader) -> None:
            recorded = segment.peek(sizes[segment])
            active.discard(segment)
            if recorded is not None:
                heapq.heappush(heap, (recorded.ended, recorded.id, segment.path.name, segment))
                if recorded.position < wanted[segment]:
                    active.add(segment)

        while unopened or active:
            while unopened and (not active or unopened[0][0] <= heap[0][0]):
                opened = self._open(unopened.popleft()[1])
                if opened is None:
                    continue
                segment = opened
                wanted[segment] = segment.size()
                sizes.update((each, each.size()) for each in wanted)
                advance(segment)
            if active:
                # Both ways, because the clock may have been set back since.
                if abs(time.time() - heap[0][0]) < settle:
                    return
                segment = heapq.heappop(heap)[-1]
                yield segment.pop()
                advance(segment)

    def _remove_abandoned(self) -> None:
        for entry in os.scandir(self._folder):
            if entry.name.endswith(".new"):
                try:
                    age = time.time() - entry.stat().st_mtime
                except FileNotFoundError:
                    continue  # its writer has just given it its name
                if age > _ABANDONED_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)

    def _open(self, name: str) -> SegmentReader | None:
        """The segment; None where another version of llmproxy wrote it in a way that we do not know."""
        segment = self._segments.get(name)
        if segment is None and name not in self._foreign:
            segment = SegmentReader(self._folder / name)
            if segment.version() not in READABLE_VERSIONS:
                logger.warning(
                    "%s: is of another version of llmproxy (spool format %s); it is left for that one to ingest",
                    segment.path,
                    segment.version().decode(),
                )
                segment.close()
                self._foreign.add(name)
                return None
            self._segments[name] = segment
        return segment

    def put_back(self, batch: Sequence[Recorded]) -> None:
        """What was given out could not be written anywhere: give it out again."""
        for recorded in reversed(batch):
            recorded.segment.put_back(recorded)

    def save(self) -> None:
        """Remember what was acknowledged; delete the segments that are done with."""
        for name, segment in list(self._segments.items()):
            if segment.finished:
                segment.delete()
                del self._segments[name]
            else:
                segment.save()

    def close(self) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()


def backlog(folder: Path) -> dict[str, int]:
    """How much lies in the spool: segments, their bytes, and the bytes that are not acknowledged yet."""
    segments = size = waiting = 0
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.endswith(".spool"):
                try:
                    length = entry.stat().st_size
                except FileNotFoundError:
                    continue
                segments += 1
                size += length
                try:
                    done = int(Path(entry.path).with_suffix(".ack").read_text())
                except (FileNotFoundError, ValueError):
                    done = len(MAGIC)
                waiting += max(0, length - done)
    return {"segments": segments, "bytes": size, "waiting_bytes": waiting}


def _created(name: str) -> float:
    """The time in a segment's name, seconds since the epoch: nothing in it ended before."""
    try:
        return reduce(lambda value, character: value * 32 + CROCKFORD.index(character), name[:10], 0) / 1000
    except ValueError:
        return 0.0
