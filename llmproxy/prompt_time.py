"""How much of the processor ingest may take at once although others may want it."""

import os
import time
from pathlib import Path

# Saved up to so much. While programs are forwarded for, and while next to nothing is: shares of one processor.
SAVED_SECONDS = 0.1
SHARE_BUSY = 0.02
SHARE_QUIET = 0.25
# What passes goes into the spool, so the spool tells whether anybody is kept waiting. A stream brings 30 KB/s.
QUIET_BYTES_PER_SECOND = 256 * 1024
LOOK_SECONDS = 0.5
NICE = 10


class PromptTime:
    """Seconds of CPU time, saved up as time goes by and spent by ingesting.

    What is ingested within them need not wait until the processor is free, which may never be: on a machine that is
    busy with other things an idle thread gets a thousandth of it. Beyond them, forwarding goes first.

    - `spool`: the folder of the spool. Where it grows, somebody is forwarded for.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._saved = SAVED_SECONDS
        self._share = SHARE_BUSY
        self._counted = self._looked = time.monotonic()
        self._sizes = self._look()

    def left(self) -> float:
        """What may be spent now; not above zero where it is overspent."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            sizes = self._look()
            grown = sum(max(0, size - self._sizes.get(name, 0)) for name, size in sizes.items())
            quiet = grown / (now - self._looked) < QUIET_BYTES_PER_SECOND
            self._share = SHARE_QUIET if quiet else SHARE_BUSY
            self._looked, self._sizes = now, sizes
        self._saved = min(SAVED_SECONDS, self._saved + (now - self._counted) * self._share)
        self._counted = now
        return self._saved

    @property
    def busy(self) -> bool:
        """Whether somebody was forwarded for when that was last looked at."""
        return self._share == SHARE_BUSY

    def spend(self, seconds: float) -> None:
        self._saved -= seconds

    def _look(self) -> dict[str, int]:
        sizes = {}
        for entry in os.scandir(self._spool):
            try:
                sizes[entry.name] = entry.stat().st_size
            except FileNotFoundError:
                pass  # a segment that was done with
        return sizes


def let_go_first() -> None:
    """Let this thread have a tenth of what others get: of two that want the processor, the other one has it at once
    (sched(7): the nice value is a thread's own on Linux). Else a chunk that comes meanwhile waits for milliseconds."""
    os.nice(NICE)


def give_way() -> None:
    """Let this thread run only where the processor is not wanted by others (sched(7), SCHED_IDLE). Where the system has
    no such class, or refuses it, the process is nice from now on."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # macOS has none; containers may forbid it, and musl does not know the call
        os.nice(19)
