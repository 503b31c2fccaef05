"""Who comes first on a busy event loop: what is new before what goes on."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

# More would have what is new wait longer; fewer cost more steps of the loop than the waiting is worth.
STEPS_AT_ONCE = 4
# Of the time that the loop has for all else. More makes first tokens wait on a full CPU; with none, a hundred clients
# that ask without a pause hold up everybody's streams.
SHARE = 0.25


class Turns:
    """A queue of steps that let the event loop look for what is new after every few of them.

    With hundreds of streams a loop that takes everything as it comes lets a request wait behind the pieces of all the
    others, and the beginning of its response once more. A client sees a first token that is late by all of them; one
    that comes between two others is late by no more than the queue is long. However much is new, the queue gets at
    least its `SHARE`. All that compete have to be in one queue.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._since = 0.0
        self._loop = asyncio.get_running_loop()

    def add(self, step: Callable[[], None]) -> None:
        """Call `step` from the event loop when those that wait already were called. What it raises is the loop's."""
        if not self._waiting:
            self._begin()
        self._waiting.append(step)

    def _begin(self) -> None:
        self._since = perf_counter()
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        waiting = self._waiting
        begun = perf_counter()
        until = begun + (begun - self._since) * SHARE
        at_once = STEPS_AT_ONCE
        try:
            while waiting and (at_once > 0 or perf_counter() < until):
                at_once -= 1
                waiting.popleft()()
        finally:
            if waiting:
                self._begin()
