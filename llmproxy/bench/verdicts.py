"""A run's verdicts: all its answers judged, after they are there, so that judging slows none of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from llmproxy.bench import judge
from llmproxy.bench.attempts import Attempts
from llmproxy.bench.calls import Mark
from llmproxy.bench.costs import cost_of
from llmproxy.bench.estimate import expected
from llmproxy.bench.measure import measured, recorded
from llmproxy.bench.requests import api_for, build
from llmproxy.bench.results import Result, Run, Target
from llmproxy.bench.schedule import Job, Queue
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage_thread import StorageThread
from llmproxy.bench.workers import Workers
from llmproxy.config import Config
from llmproxy.parts import text_of
from llmproxy.prices import Prices


class Verdicts:
    """Has the answers of one run judged that are not yet."""

    def __init__(
        self,
        config: Config,
        run: Run,
        settings: Settings,
        by: Target,
        *,
        reader: StorageThread,
        writer: StorageThread,
        workers: Workers,
        attempts: Attempts,
        known: Mapping[Mark, str],
        tell: Callable[[Result], None],
    ) -> None:
        """`by` is the judge; `known`: the turns of its calls that were made before."""
        self._config = config
        self._run = run
        self._settings = settings
        self._by = by
        self._reader = reader
        self._writer = writer
        self._workers = workers
        self._attempts = attempts
        self._known = known
        self._tell = tell
        self._prices = Prices(config)
        # What was said to the first question of two, while the second waits to be asked again.
        self._replies: dict[Mark, str | None] = {}

    async def get(self) -> None:
        """Get them all, or as many as the workers do before they are stopped."""
        jobs = await self._reader.run(self._unjudged)
        await self._workers.work_off(Queue(jobs, self._settings.seconds_between), self._judge)

    def _unjudged(self, thread: StorageThread) -> list[Job]:
        prompts = {prompt.turn_id: at for at, prompt in enumerate(self._run.prompts)}
        targets = {target.name: at for at, target in enumerate(self._run.targets)}
        return [
            Job(order, prompts[result.prompt], targets[result.target], result.repeat)
            for order, result in enumerate(thread.storage.results(self._run.id))
            if result.status == "done"
            and not result.verdicts
            # By comparison, the recorded answer is what the others are compared with.
            and (self._settings.rubric is not None or not self._run.targets[targets[result.target]].as_recorded)
        ]

    async def _judge(self, job: Job, queue: Queue) -> None:
        result, questions = await self._reader.run(self._questions, job)
        replies: list[str | None] = []
        for at, question in enumerate(questions):
            mark = Mark(f"judge{at}", result.prompt, job.target, job.repeat)
            if mark not in self._replies and not await self._ask(job, queue, mark, question):
                return
            replies.append(self._replies[mark])
        if questions:
            judged = replace(result, verdicts=(judge.verdict(self._by.name, replies, self._settings.rubric),))
            await self._writer.run(lambda thread: thread.storage.write(self._run.id, judged))
            for at in range(len(questions)):
                del self._replies[Mark(f"judge{at}", result.prompt, job.target, job.repeat)]
            self._tell(judged)

    async def _ask(self, job: Job, queue: Queue, mark: Mark, question: str) -> bool:
        """Keep the judge's reply. False where there is none yet."""
        if mark in self._known:
            known = await self._reader.run(lambda thread: thread.turn(self._known[mark]))
            if known is not None:
                self._replies[mark] = text_of(known.output)
                return True
        by = self._by
        turn = judge.as_turn(question, by.model)
        request = build(turn, by, api_for(turn, by, self._config.upstreams[by.upstream]))
        wanted = expected(turn, by, request, self._prices)
        answered = await self._attempts.make(job, queue, by.upstream, request, wanted, mark, fork_of=None)
        if answered is None:
            return False
        reply = measured(mark.prompt, by.name, mark.repeat, answered, attempts=job.attempt, notes=())
        prompt = next(prompt for prompt in self._run.prompts if prompt.turn_id == mark.prompt)
        self._attempts.spent += cost_of(reply, by, prompt, self._prices) or 0.0
        self._replies[mark] = reply.text if answered.error is None else None
        return True

    def _questions(self, thread: StorageThread, job: Job) -> tuple[Result, list[str]]:
        prompt, target = self._run.prompts[job.prompt].turn_id, self._run.targets[job.target].name
        result = thread.storage.result(self._run.id, prompt, target, job.repeat)
        assert result is not None
        turn = thread.turn(prompt)
        if turn is None:
            return result, []
        return result, judge.questions(turn, result, recorded(turn, prompt, ""), self._settings.rubric)
