"""Who comes first on a busy event loop: what is new before what goes on."""

import asyncio
from collections import deque
from collections.abc import Callable

# More would have what is new wait longer; fewer cost more steps of the loop than the waiting is worth.
STEPS_AT_ONCE = 4


class Turns:
    """A queue of what may wait until the event loop has looked for what is new.

    With hundreds of streams a loop that takes everything as it comes lets a request wait behind the pieces of all the
    others, and the beginning of its response once more. A client sees a first token that is late by all of them; one
    that comes between two others is late by no more than a few. Nothing waits where there is nothing else to do.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._steps: deque[Callable[[], None]] = deque()

    def add(self, step: Callable[[], None]) -> None:
        """Call `step` when it is its turn, after those that were there before."""
        self._steps.append(step)
        if len(self._steps) == 1:
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        steps = self._steps
        try:
            for _ in range(min(len(steps), STEPS_AT_ONCE)):
                steps.popleft()()
        finally:
            if steps:
                self._loop.call_soon(self._run)
