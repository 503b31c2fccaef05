"""Which call is next: fair to all targets, and patient with the one that wants to be left alone for a while."""

import heapq
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A call that begins so late does not put off the next one, so that the rate is reached.
LATE_SECONDS = 0.05


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One answer to get. `order` is its place in the fair order; `prompt` and `target` are positions in the run."""

    order: int
    prompt: int
    target: int
    repeat: int
    attempt: int = 1


def fair_order(prompts: int, targets: Sequence[int], repeats: int, seed: int) -> list[Job]:
    """All jobs, the targets interleaved: each prompt goes to all targets, in an order of its own, before the next.

    So whatever changes while the run goes on (the hour, the network, a cache) changes for all targets alike. The same
    seed gives the same order.
    """
    chance = random.Random(seed)
    jobs: list[Job] = []
    for repeat in range(repeats):
        order = list(range(prompts))
        chance.shuffle(order)
        for prompt in order:
            shuffled = list(targets)
            chance.shuffle(shuffled)
            jobs += [Job(len(jobs) + at, prompt, target, repeat) for at, target in enumerate(shuffled)]
    return jobs


class Queue:
    """The jobs that wait. A target may be paused, and others go first then.

    - `seconds_between`: of the starts of two calls, at least.
    """

    def __init__(self, jobs: Iterable[Job], seconds_between: float = 0.0) -> None:
        self._waiting: dict[int, list[Job]] = {}
        for job in sorted(jobs):
            self._waiting.setdefault(job.target, []).append(job)  # sorted, and so a heap
        self._later: list[tuple[float, Job]] = []
        self._not_before: dict[int, float] = {}
        self._between = seconds_between
        self._next_start = 0.0

    def take(self) -> Job | float | None:
        """The next job; or seconds to wait before asking again; None where nothing is left."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._put(heapq.heappop(self._later)[1])
        if self._next_start > now:
            return self._next_start - now if self else None
        moments = [at for at, _ in self._later[:1]]
        ready = []
        for target, jobs in self._waiting.items():
            if jobs and self._not_before.get(target, 0.0) <= now:
                ready.append(jobs[0])
            elif jobs:
                moments.append(self._not_before[target])
        if not ready:
            return min(moments) - now if moments else None
        job = min(ready)
        heapq.heappop(self._waiting[job.target])
        self._next_start = max(self._next_start, now - LATE_SECONDS) + self._between
        return job

    def put_back(self, job: Job, seconds: float = 0.0) -> None:
        """Let a job wait again, for so many seconds at least."""
        if seconds > 0:
            heapq.heappush(self._later, (time.monotonic() + seconds, job))
        else:
            self._put(job)

    def pause(self, target: int, seconds: float) -> None:
        """Leave a target alone for a while."""
        self._not_before[target] = max(self._not_before.get(target, 0.0), time.monotonic() + seconds)

    def __bool__(self) -> bool:
        return bool(self._later) or any(self._waiting.values())

    def _put(self, job: Job) -> None:
        heapq.heappush(self._waiting.setdefault(job.target, []), job)
