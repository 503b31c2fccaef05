"""One attempt at a call: within the money there is, and put off where the provider asks for it."""

import random
from dataclasses import replace

from llmproxy.bench.calls import Caller, Mark
from llmproxy.bench.estimate import Expected
from llmproxy.bench.measure import Answered
from llmproxy.bench.requests import BenchRequest
from llmproxy.bench.schedule import Job, Queue
from llmproxy.bench.settings import Settings
from llmproxy.bench.workers import Workers

# A provider that wants us to wait for longer is out of quota.
LONGEST_WAIT = 600.0
BACKOFF, LONGEST_BACKOFF = 0.5, 60.0


class Attempts:
    """Makes calls for the workers. `spent`: dollars, as far as they are known."""

    def __init__(self, settings: Settings, caller: Caller, workers: Workers) -> None:
        self._settings = settings
        self._caller = caller
        self._workers = workers
        self._chance = random.Random(settings.seed)
        self.spent = 0.0
        self._reserved = 0.0

    async def make(
        self,
        job: Job,
        queue: Queue,
        upstream: str,
        request: BenchRequest,
        wanted: Expected,
        mark: Mark,
        *,
        fork_of: str | None,
    ) -> Answered | None:
        """The answer; None where there is none yet: the run was stopped, or the job waits to be tried again."""
        cost = wanted.cost_usd or 0.0
        limit = self._settings.max_cost
        if limit is not None and self.spent + self._reserved + cost > limit:
            self._workers.hold()
            return None
        self._reserved += cost
        try:
            answered = await self._workers.unless_stopped(self._caller.call(upstream, request, mark, fork_of=fork_of))
        finally:
            self._reserved -= cost
        if answered is None or answered.error is None or not answered.passing:
            return answered
        if job.attempt > self._settings.retries:
            return answered
        pause = answered.retry_after
        if pause is not None and pause > LONGEST_WAIT:
            return replace(answered, error=f"{answered.error} (it asks to wait for {pause:.0f} seconds)")
        again = replace(job, attempt=job.attempt + 1)
        if pause is not None or answered.status == 429:
            # It speaks of all that we send, not of this one call.
            queue.pause(job.target, self._backoff(job.attempt) if pause is None else pause)
            queue.put_back(again)
        else:
            queue.put_back(again, self._backoff(job.attempt))
        return None

    def _backoff(self, attempt: int) -> float:
        return min(BACKOFF * 2.0 ** (attempt - 1), LONGEST_BACKOFF) * self._chance.uniform(0.75, 1.25)
