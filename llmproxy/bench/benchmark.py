"""The whole of `llmproxy bench`: a run made or taken up again, its answers recorded, and each tied to its turn."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import uvloop

from llmproxy.bench.attempts import Attempts
from llmproxy.bench.calls import BENCH_HEADER, Mark, client_name, open_caller
from llmproxy.bench.estimate import Estimate, Expected, expected, summed
from llmproxy.bench.measure import prompt_of, recorded
from llmproxy.bench.requests import Untranslatable, api_for, build
from llmproxy.bench.results import Prompt, Result, Run, Target
from llmproxy.bench.run import Answers
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage import Storage
from llmproxy.bench.storage_thread import StorageThread
from llmproxy.bench.targets import parse_targets
from llmproxy.bench.verdicts import Verdicts
from llmproxy.bench.workers import Stopped, Workers
from llmproxy.capture.exchange import ExchangeIds
from llmproxy.capture.spool_lock import SpoolLock
from llmproxy.config import Config
from llmproxy.ingester import follow
from llmproxy.prices import Prices
from llmproxy.store.captured import read_turn
from llmproxy.supervisor import IngesterProcess


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `stopped` early, or None; what it cost as far as known; how many answers are still to get."""

    stopped: Stopped | None
    spent: float
    missing: int


def new_run(storage: Storage, turn_ids: Sequence[str], targets: Sequence[Target], settings: Settings) -> Run:
    """Enter a run of these turns into the database. Ids that name no turn are left out."""
    run = Run(
        id=ExchangeIds().new(),
        started_utc=datetime.now(UTC).isoformat(),
        ended_utc=None,
        settings=settings.model_dump(mode="json"),
        targets=tuple(targets),
        prompts=tuple(_prompts(storage, turn_ids)),
        results=(),
    )
    storage.create(run)
    return run


def _prompts(storage: Storage, turn_ids: Sequence[str]) -> list[Prompt]:
    turns = (read_turn(storage.db.conn, turn_id) for turn_id in dict.fromkeys(turn_ids))
    return [prompt_of(turn) for turn in turns if turn is not None]


def estimates(
    config: Config, storage: Storage, turn_ids: Sequence[str], targets: Sequence[Target], repeat: int
) -> list[Estimate]:
    """What a run of these turns would take, for each target. Nothing is called."""
    prices = Prices(config)
    calls: dict[str, list[Any]] = {target.name: [] for target in targets if not target.as_recorded}
    for turn_id in dict.fromkeys(turn_ids):
        turn = read_turn(storage.db.conn, turn_id)
        if turn is None:
            continue
        for target in targets:
            if target.as_recorded:
                continue
            call: str | tuple[Expected, tuple[str, ...]]
            try:
                request = build(turn, target, api_for(turn, target, config.upstreams[target.upstream]))
                call = (expected(turn, target, request, prices), request.notes)
            except Untranslatable as exc:
                call = str(exc)
            calls[target.name].append(call)
    return [summed(name, of, repeat) for name, of in calls.items()]


def benchmark(config: Config, run_id: str, settings: Settings, tell: Callable[[Result], None]) -> Ended:
    """Make the calls of a run that are not made yet, and have their answers recorded, checked and judged.

    `tell` is given each result when it is in the database. Raises `ConfigError`, `sqlite3.Error`, `OSError`.
    """
    writer = StorageThread(config.capture.database_path)
    reader = StorageThread(config.capture.database_path)
    try:
        # What an earlier process of this run left in the spool is the answer to calls that need not be made.
        _drain(config)
        judged = writer.now(lambda storage: _adopt(storage, run_id))
        run = writer.now(lambda storage: storage.read(run_id, results=False))
        # A proxy that serves meanwhile has one of its own.
        ingester = IngesterProcess(config.capture) if _unattended(config) else None
        if ingester is not None:
            ingester.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                stopped, spent = loop.run(_run(config, run, settings, reader, writer, judged, tell))
        finally:
            if ingester is not None:
                ingester.stop()
            _drain(config)
            writer.now(lambda storage: _settle(storage, run))
        missing = writer.now(lambda storage: _missing(storage, run, settings))
        if not missing and stopped is None:
            writer.now(lambda storage: storage.end(run_id, True))
        return Ended(stopped, spent, missing)
    finally:
        reader.close()
        writer.close()


async def _run(
    config: Config,
    run: Run,
    settings: Settings,
    reader: StorageThread,
    writer: StorageThread,
    judged: dict[Mark, str],
    tell: Callable[[Result], None],
) -> tuple[Stopped | None, float]:
    async with open_caller(config, run.id) as caller:
        workers = Workers(settings.concurrency)
        attempts = Attempts(settings, caller, workers)
        with workers.interruptible():
            answers = Answers(
                config,
                run,
                settings,
                reader=reader,
                writer=writer,
                caller=caller,
                workers=workers,
                attempts=attempts,
                tell=tell,
            )
            await answers.get()
            for by in parse_targets([settings.judge], config) if settings.judge else ():
                verdicts = Verdicts(
                    config,
                    run,
                    settings,
                    by,
                    reader=reader,
                    writer=writer,
                    workers=workers,
                    attempts=attempts,
                    known=judged,
                    tell=tell,
                )
                await verdicts.get()
        return workers.stopped, attempts.spent


def _unattended(config: Config) -> bool:
    """Whether nobody ingests the spool."""
    lock = SpoolLock(config.capture.spool_path)
    try:
        return lock.acquire()
    finally:
        lock.close()


def _drain(config: Config) -> None:
    follow(config.capture, drain=True)


def _missing(storage: Storage, run: Run, settings: Settings) -> int:
    live = sum(not target.as_recorded for target in run.targets)
    done = storage.keys(run.id)
    names = {target.name for target in run.targets if not target.as_recorded}
    return len(run.prompts) * live * settings.repeat - sum(key[1] in names for key in done)


def _marked(storage: Storage, run_id: str) -> list[tuple[Mark, str, str | None, bool]]:
    """The run's exchanges, oldest first: mark, id, turn, and whether it ended well."""
    found = []
    for id, turn_id, headers, status, outcome in storage.db.execute(
        "select id, turn_id, request_headers, status, outcome from llmproxy_exchanges where client = ? order by id",
        [client_name(run_id)],
    ):
        fields = dict(json.loads(headers or "[]"))
        mark = Mark.parse(fields.get(BENCH_HEADER.decode(), ""))
        if mark is not None:
            found.append((mark, id, turn_id, outcome == "complete" and (status or 0) < 400 and turn_id is not None))
    return found


def _adopt(storage: Storage, run_id: str) -> dict[Mark, str]:
    """Enter the results of answers that came and were recorded, though the process died before it could say so.

    Gives the turns of the judge's calls that ended well, by their marks.
    """
    run = storage.read(run_id, results=False)
    done = storage.keys(run_id)
    judged: dict[Mark, str] = {}
    attempts: dict[Mark, int] = {}
    for mark, _, turn_id, good in _marked(storage, run_id):
        attempts[mark] = attempts.get(mark, 0) + 1
        if not good or turn_id is None:
            continue
        if mark.kind != "answer":
            judged[mark] = turn_id
            continue
        name = run.targets[mark.target].name
        turn = read_turn(storage.db.conn, turn_id)
        if (mark.prompt, name, mark.repeat) in done or turn is None:
            continue
        result = replace(recorded(turn, mark.prompt, name, mark.repeat), attempts=attempts[mark])
        storage.write(run_id, result)
    return judged


def _settle(storage: Storage, run: Run) -> None:
    """Say of each result, and of each verdict, which turns they are."""
    verdicts: dict[tuple[str, str, int], dict[str, str]] = {}
    answers: dict[tuple[str, str, int], str] = {}
    for mark, _, turn_id, good in _marked(storage, run.id):
        if good and turn_id is not None:
            key = (mark.prompt, run.targets[mark.target].name, mark.repeat)
            if mark.kind == "answer":
                answers[key] = turn_id
            else:
                verdicts.setdefault(key, {})[mark.kind] = turn_id
    for result in list(storage.results(run.id)):
        key = (result.prompt, result.target, result.repeat)
        turn_ids = tuple(turn_id for _, turn_id in sorted(verdicts.get(key, {}).items()))
        if result.verdicts and result.verdicts[0].turn_ids != turn_ids:
            result = replace(result, verdicts=(replace(result.verdicts[0], turn_ids=turn_ids),))
            storage.write(run.id, replace(result, turn_id=answers.get(key, result.turn_id)))
        elif result.status == "done" and result.turn_id is None and key in answers:
            storage.set_turn(run.id, result, answers[key])
