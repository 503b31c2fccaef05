"""A run's answers: calls made in a fair order, each answer kept when it is there, and nothing asked twice."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from llmproxy.bench.attempts import Attempts
from llmproxy.bench.calls import Caller, Mark
from llmproxy.bench.checks import Asked, run_checks
from llmproxy.bench.costs import cost_of
from llmproxy.bench.estimate import Expected, expected
from llmproxy.bench.measure import measured, recorded
from llmproxy.bench.requests import BenchRequest, Untranslatable, api_for, build
from llmproxy.bench.results import Result, Run, Target
from llmproxy.bench.schedule import Job, Queue, fair_order
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage_thread import StorageThread
from llmproxy.bench.workers import Workers
from llmproxy.config import Config
from llmproxy.prices import Prices

WARM_CONNECTIONS = 4
# Results that may wait for the database, which an ingester on a busy machine may hold for seconds. Those that die with
# the process are in the spool.
PENDING = 4096


class Answers:
    """Gets the answers of one run that are not there yet."""

    def __init__(
        self,
        config: Config,
        run: Run,
        settings: Settings,
        *,
        reader: StorageThread,
        writer: StorageThread,
        caller: Caller,
        workers: Workers,
        attempts: Attempts,
        tell: Callable[[Result], None],
    ) -> None:
        """`tell` is given each result as it is written."""
        self._config = config
        self._run = run
        self._settings = settings
        self._reader = reader
        self._writer = writer
        self._caller = caller
        self._workers = workers
        self._attempts = attempts
        self._tell = tell
        self._prices = Prices(config)
        self._targets = {target.name: target for target in run.targets}
        self._prompts = {prompt.turn_id: prompt for prompt in run.prompts}
        self._writing: asyncio.TaskGroup | None = None
        self._pending = asyncio.Semaphore(PENDING)

    async def get(self) -> None:
        """Get them all, or as many as the workers do before they are stopped."""
        await self._writer.run(self._catch_up)
        done = await self._writer.run(lambda thread: thread.storage.keys(self._run.id))
        self._attempts.spent += await self._reader.run(self._spent)
        live = [at for at, target in enumerate(self._run.targets) if not target.as_recorded]
        order = fair_order(len(self._run.prompts), live, self._settings.repeat, self._settings.seed)
        jobs = [job for job in order if self._key(job) not in done]
        if jobs and self._settings.warm_up:
            connections = min(self._settings.concurrency, WARM_CONNECTIONS)
            for upstream in dict.fromkeys(self._run.targets[job.target].upstream for job in jobs):
                await self._caller.warm_up(upstream, connections)
        async with asyncio.TaskGroup() as self._writing:
            await self._workers.work_off(Queue(jobs, self._settings.seconds_between), self._answer)

    async def _answer(self, job: Job, queue: Queue) -> None:
        target, prompt = self._run.targets[job.target], self._run.prompts[job.prompt]
        prepared = await self._reader.run(self._prepare, prompt.turn_id, target)
        if isinstance(prepared, str):
            await self._write(Result(prompt.turn_id, target.name, job.repeat, "skipped", error=prepared, attempts=0))
            return
        request, wanted = prepared
        mark = Mark("answer", prompt.turn_id, job.target, job.repeat)
        answered = await self._attempts.make(job, queue, target.upstream, request, wanted, mark, fork_of=prompt.turn_id)
        if answered is not None:
            await self._write(
                measured(prompt.turn_id, target.name, job.repeat, answered, attempts=job.attempt, notes=request.notes)
            )

    def _prepare(self, thread: StorageThread, turn_id: str, target: Target) -> tuple[BenchRequest, Expected] | str:
        """The request, or the reason why there is none."""
        turn = thread.turn(turn_id)
        if turn is None:
            return "the turn is no longer in the database"
        try:
            request = build(turn, target, api_for(turn, target, self._config.upstreams[target.upstream]))
        except Untranslatable as exc:
            return str(exc)
        return request, expected(turn, target, request, self._prices)

    async def _write(self, result: Result) -> None:
        """Hand a result on to the database, without waiting for it: the next call need not."""
        cost = self._cost(result)
        self._attempts.spent += cost or 0.0
        await self._pending.acquire()
        assert self._writing is not None
        self._writing.create_task(self._written(replace(result, cost_usd=cost)))

    async def _written(self, result: Result) -> None:
        try:
            self._tell(await self._writer.run(self._keep, result))
        finally:
            self._pending.release()

    def _keep(self, thread: StorageThread, result: Result) -> Result:
        kept = self._checked(thread, result)
        thread.storage.write(self._run.id, kept)
        return kept

    def _checked(self, thread: StorageThread, result: Result) -> Result:
        turn = thread.turn(result.prompt)
        was = recorded(turn, result.prompt, "") if turn is not None else None
        asked = Asked(was, turn.schema if turn is not None else None)
        specs = self._settings.checks.checks_of(self._prompts[result.prompt], asked)
        return replace(result, checks=run_checks(specs, result, asked))

    def _catch_up(self, thread: StorageThread) -> None:
        """Enter the recorded answers, where they are wanted, and check what was taken over from a process that died."""
        storage = thread.storage
        done = storage.keys(self._run.id)
        for key in done:
            result = storage.result(self._run.id, *key)
            if result is not None and not result.checks and (checked := self._checked(thread, result)).checks:
                storage.write(self._run.id, checked)
        for target in self._run.targets:
            for prompt in self._run.prompts if target.as_recorded else ():
                turn = thread.turn(prompt.turn_id) if (prompt.turn_id, target.name, 0) not in done else None
                if turn is not None:
                    self._keep(thread, recorded(turn, prompt.turn_id, target.name))

    def _key(self, job: Job) -> tuple[str, str, int]:
        return (self._run.prompts[job.prompt].turn_id, self._run.targets[job.target].name, job.repeat)

    def _spent(self, thread: StorageThread) -> float:
        results = thread.storage.results(self._run.id)
        return sum(self._cost(result) or 0.0 for result in results if not self._targets[result.target].as_recorded)

    def _cost(self, result: Result) -> float | None:
        return cost_of(result, self._targets[result.target], self._prompts[result.prompt], self._prices)
