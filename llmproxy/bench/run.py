"""A run: calls made in a fair order, each answer kept when it is there, and nothing made twice."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from llmproxy.bench import judge
from llmproxy.bench.calls import Caller, Mark
from llmproxy.bench.checks import Asked, run_checks
from llmproxy.bench.estimate import Expected, expected
from llmproxy.bench.measure import Answered, measured, recorded, text_of
from llmproxy.bench.prices import Prices
from llmproxy.bench.requests import BenchRequest, Untranslatable, api_for, build
from llmproxy.bench.results import Result, Run, Target
from llmproxy.bench.schedule import Job, Queue, fair_order
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage import Storage
from llmproxy.bench.targets import parse_targets
from llmproxy.bench.workers import Workers
from llmproxy.config import Config
from llmproxy.store.captured import CapturedTurn, read_turn

T = TypeVar("T")

WARM_CONNECTIONS = 4
# A provider that wants us to wait for longer is out of quota.
LONGEST_WAIT = 600.0
BACKOFF, LONGEST_BACKOFF = 0.5, 60.0


class Runner:
    """Makes the calls of one run. All that touches the database happens in one thread of its own, so that no wait for
    it is a part of what is measured."""

    def __init__(
        self,
        config: Config,
        run: Run,
        settings: Settings,
        *,
        thread: ThreadPoolExecutor,
        storage: Storage,
        caller: Caller,
        judged: Mapping[Mark, str],
        tell: Callable[[Result], None],
    ) -> None:
        """`judged`: the turns of judge's calls that were made before; `tell` is given each result as it is written."""
        self._config = config
        self._run = run
        self._settings = settings
        self._thread = thread
        self._storage = storage
        self._caller = caller
        self._judged = judged
        self._tell = tell
        self._prices = Prices(config)
        self._chance = random.Random(settings.seed)
        self._targets = {target.name: target for target in run.targets}
        self._prompts = {prompt.turn_id: prompt for prompt in run.prompts}
        self._turn = lru_cache(maxsize=settings.concurrency + 8)(lambda id: read_turn(storage.db, id))
        self.workers = Workers(settings.concurrency)
        self.spent = 0.0
        self._reserved = 0.0

    async def answers(self) -> None:
        """Get all answers that are not there yet."""
        await self._off(self._write_baselines)
        await self._off(self._check_unchecked)
        done = await self._off(self._storage.keys, self._run.id)
        self.spent = await self._off(self._spent)
        live = [at for at, target in enumerate(self._run.targets) if not target.as_recorded]
        order = fair_order(len(self._run.prompts), live, self._settings.repeat, self._settings.seed)
        jobs = [job for job in order if self._key(job) not in done]
        if jobs and self._settings.warm_up:
            connections = min(self._settings.concurrency, WARM_CONNECTIONS)
            for upstream in dict.fromkeys(self._run.targets[job.target].upstream for job in jobs):
                await self._caller.warm_up(upstream, connections)
        await self.workers.work_off(self._queue(jobs), self._answer)

    async def verdicts(self) -> None:
        """Have all answers judged that are not yet. It comes after them, so that it slows none."""
        if self._settings.judge is not None:
            await self.workers.work_off(self._queue(await self._off(self._unjudged)), self._judge)

    def _queue(self, jobs: Iterable[Job]) -> Queue:
        return Queue(jobs, seconds_between=1 / self._settings.rate if self._settings.rate else 0.0)

    # -- answers -----------------------------------------------------------

    async def _answer(self, job: Job, queue: Queue) -> None:
        target, prompt = self._run.targets[job.target], self._run.prompts[job.prompt]
        prepared = await self._off(self._prepare, prompt.turn_id, target)
        if isinstance(prepared, str):
            await self._write(
                Result(prompt.turn_id, target.name, job.repeat, "skipped", error=prepared, attempts=0), checked=False
            )
            return
        request, wanted = prepared
        mark = Mark("answer", prompt.turn_id, job.target, job.repeat)
        answered = await self._call(job, queue, target, request, wanted, mark, fork_of=prompt.turn_id)
        if answered is not None:
            result = measured(
                prompt.turn_id, target.name, job.repeat, answered, attempts=job.attempt, notes=request.notes
            )
            await self._write(result, checked=True)

    def _prepare(self, turn_id: str, target: Target) -> tuple[BenchRequest, Expected] | str:
        """The request, or the reason why there is none."""
        turn: CapturedTurn | None = self._turn(turn_id)
        if turn is None:
            return "the turn is no longer in the database"
        try:
            request = build(turn, target, api_for(turn, target, self._config.upstreams[target.upstream]))
        except Untranslatable as exc:
            return str(exc)
        return request, expected(turn, target, request, self._prices)

    async def _call(
        self,
        job: Job,
        queue: Queue,
        target: Target,
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
            self.workers.hold()
            return None
        self._reserved += cost
        try:
            answered = await self.workers.unless_stopped(
                self._caller.call(target.upstream, request, mark, fork_of=fork_of)
            )
        finally:
            self._reserved -= cost
        if answered is None:
            return None
        if answered.error is not None and answered.passing and job.attempt <= self._settings.retries:
            pause = answered.retry_after
            if pause is not None and pause > LONGEST_WAIT:
                return replace(answered, error=f"{answered.error} (it asks to wait for {pause:.0f} seconds)")
            if pause is not None or answered.status == 429:
                # It speaks of all that we send, not of this one call.
                queue.pause(job.target, self._backoff(job.attempt) if pause is None else pause)
                queue.put_back(replace(job, attempt=job.attempt + 1))
            else:
                queue.put_back(replace(job, attempt=job.attempt + 1), self._backoff(job.attempt))
            return None
        return answered

    def _backoff(self, attempt: int) -> float:
        return min(BACKOFF * 2.0 ** (attempt - 1), LONGEST_BACKOFF) * self._chance.uniform(0.75, 1.25)

    async def _write(self, result: Result, *, checked: bool) -> None:
        cost = self._cost(result) or 0.0
        self.spent += cost
        self._tell(replace(await self._off(self._keep, result, checked), cost_usd=self._cost(result)))

    def _keep(self, result: Result, checked: bool) -> Result:
        kept = self.checked(result) if checked else result
        self._storage.write(self._run.id, kept)
        return kept

    def checked(self, result: Result) -> Result:
        """The result with its checks."""
        turn: CapturedTurn | None = self._turn(result.prompt)
        was = recorded(turn, result.prompt, "") if turn is not None else None
        asked = Asked(was, turn.schema if turn is not None else None)
        specs = self._settings.checks.checks_of(self._prompts[result.prompt], asked)
        return replace(result, checks=run_checks(specs, result, asked))

    def _write_baselines(self) -> None:
        done = self._storage.keys(self._run.id)
        for target in self._run.targets:
            for prompt in self._run.prompts if target.as_recorded else ():
                if (prompt.turn_id, target.name, 0) in done:
                    continue
                turn: CapturedTurn | None = self._turn(prompt.turn_id)
                if turn is not None:
                    self._storage.write(self._run.id, self.checked(recorded(turn, prompt.turn_id, target.name)))

    def _check_unchecked(self) -> None:
        """Check what was taken over from a process that died before it could."""
        for key in self._storage.keys(self._run.id):
            result = self._storage.result(self._run.id, *key)
            if result is not None and not result.checks and (checked := self.checked(result)).checks:
                self._storage.write(self._run.id, checked)

    def _key(self, job: Job) -> tuple[str, str, int]:
        return (self._run.prompts[job.prompt].turn_id, self._run.targets[job.target].name, job.repeat)

    def _spent(self) -> float:
        results = self._storage.results(self._run.id)
        return sum(self._cost(result) or 0.0 for result in results if not self._targets[result.target].as_recorded)

    def _cost(self, result: Result) -> float | None:
        return self._prices.of_result(result, self._targets[result.target], self._prompts[result.prompt])

    # -- verdicts ----------------------------------------------------------

    def _unjudged(self) -> list[Job]:
        prompts = {prompt.turn_id: at for at, prompt in enumerate(self._run.prompts)}
        targets = {target.name: at for at, target in enumerate(self._run.targets)}
        return [
            Job(order, prompts[result.prompt], targets[result.target], result.repeat)
            for order, result in enumerate(self._storage.results(self._run.id))
            if result.status == "done"
            and not result.verdicts
            # By comparison, the recorded answer is what the others are compared with.
            and (self._settings.rubric is not None or not self._targets[result.target].as_recorded)
        ]

    async def _judge(self, job: Job, queue: Queue) -> None:
        assert self._settings.judge is not None
        (by,) = parse_targets([self._settings.judge], self._config)
        result, asked = await self._off(self._questions, job)
        replies: list[str | None] = []
        for at, question in enumerate(asked):
            mark = Mark(f"judge{at}", result.prompt, job.target, job.repeat)
            known = await self._off(self._turn, self._judged[mark]) if mark in self._judged else None
            if known is not None:
                replies.append(text_of(known.output))
                continue
            turn = judge.as_turn(question, by.model)
            request = build(turn, by, api_for(turn, by, self._config.upstreams[by.upstream]))
            wanted = expected(turn, by, request, self._prices)
            answered = await self._call(job, queue, by, request, wanted, mark, fork_of=None)
            if answered is None:
                return
            measures = measured(result.prompt, by.name, job.repeat, answered, attempts=job.attempt, notes=())
            self.spent += self._prices.of_result(measures, by, self._prompts[result.prompt]) or 0.0
            replies.append(measures.text if answered.error is None else None)
        if asked:
            verdict = judge.verdict(by.name, replies, self._settings.rubric)
            judged = replace(result, verdicts=(verdict,))
            await self._off(self._storage.write, self._run.id, judged)
            self._tell(judged)

    def _questions(self, job: Job) -> tuple[Result, list[str]]:
        result = self._storage.result(self._run.id, *self._key(job))
        assert result is not None
        turn: CapturedTurn | None = self._turn(result.prompt)
        if turn is None:
            return result, []
        return result, judge.questions(turn, result, recorded(turn, result.prompt, ""), self._settings.rubric)

    async def _off(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
