"""So many calls at a time, until nothing is left or somebody says stop."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from llmproxy.bench.schedule import Job, Queue

T = TypeVar("T")
Stopped = Literal["interrupted", "max_cost"]
Work = Callable[[Job, Queue], Awaitable[None]]


class Workers:
    """Works off queues with `concurrency` jobs at a time. `stopped` says why it ended early, if it did."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._in_flight = 0
        self.stopped: Stopped | None = None

    def stop(self, why: Stopped) -> None:
        """End soon: what is in flight and may be given up is given up."""
        self.stopped = self.stopped or why
        self._stop.set()

    def hold(self) -> None:
        """Begin nothing more, for want of money, and let what is in flight end."""
        self.stopped = self.stopped or "max_cost"

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the work well."""
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self.stop, "interrupted")
        try:
            yield
        finally:
            for sig in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(sig)

    async def work_off(self, queue: Queue, work: Work) -> None:
        """Do all jobs of a queue. `work` may put one back."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._worker(queue, work))

    async def unless_stopped(self, call: Coroutine[Any, Any, T]) -> T | None:
        """What a call gives; None where the work was stopped first, and the call with it."""
        loop = asyncio.get_running_loop()
        calling, stop = loop.create_task(call), loop.create_task(self._stop.wait())
        try:
            await asyncio.wait((calling, stop), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if calling.done():
            return calling.result()
        calling.cancel()
        await asyncio.wait([calling])
        return None

    async def _worker(self, queue: Queue, work: Work) -> None:
        while self.stopped is None:
            job = queue.take()
            if job is None and not self._in_flight:
                self._changed.set()
                return
            if not isinstance(job, Job):
                await self._wait(job)
                continue
            self._in_flight += 1
            try:
                await work(job, queue)
            finally:
                self._in_flight -= 1
                self._changed.set()

    async def _wait(self, seconds: float | None) -> None:
        """Until something changes, for so long at most."""
        self._changed.clear()
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(event.wait()) for event in (self._changed, self._stop)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
