"""Ingest: takes exchanges from the spool, reconstructs them, hands them to the database and to the hooks.

It runs in a process of its own. Whatever happens to it or to the database, forwarding goes on and the spool grows; what
was read twice is told by its id, so that it may be killed at any moment.

The database is shared with `llm`, whose transactions read before they write: SQLite refuses such a write at once
("database is locked") where another process writes or has written meanwhile (SQLITE_BUSY_SNAPSHOT in
sqlite.org/rescode.html). So transactions here are short, and an exchange is written a moment after it ended
(`capture.settle`): `llm` writes its own record right then.

Where traffic is light, that is done at once, however busy the machine: an idle thread would come to it late, and may
hold the database's lock for seconds. Where it is heavy, forwarding goes first (`PromptTime`).
"""

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TypeVar

from sqlite_utils import Database

from llmproxy.capture.exchange import Exchange
from llmproxy.capture.in_hand import MOST_ATTEMPTS, InHand
from llmproxy.capture.segment_reader import Recorded
from llmproxy.capture.spool_reader import SpoolReader, backlog
from llmproxy.config import CaptureConfig
from llmproxy.hooks import Hook, call_hooks
from llmproxy.prompt_time import SAVED_SECONDS, PromptTime, give_way, let_go_first
from llmproxy.reconstruct import Api, Reconstruction, api_of
from llmproxy.reconstruct.other_paths import holds_no_conversation
from llmproxy.reconstruct.retrieval import is_retrieval, retrieved
from llmproxy.reconstruct.turn import NotReconstructed, Turn
from llmproxy.store.exchanges import insert, known_exchanges, utc
from llmproxy.store.logs_database import LogsDatabase, StoreUnavailable
from llmproxy.store.recorder import DatabaseRecorder, Reading

POLL_SECONDS = 0.1
BATCH_EXCHANGES = 200
BATCH_BYTES = 1024 * 1024
TRANSACTION_SECONDS = 0.05
PROMPT_BATCH_EXCHANGES = 8
HOOK_BATCHES = 4

T = TypeVar("T")

logger = logging.getLogger("llmproxy.ingest")


class Ingester:
    """Moves what is in the spool into the database.

    `run` follows the spool until `stop` is set, then empties it; `drain` empties it once.

    - `gives_way`: forwarding goes first.
    """

    def __init__(self, capture: CaptureConfig, hooks: Sequence[Hook] = (), *, gives_way: bool = False) -> None:
        self._capture = capture
        self._hooks = hooks
        self._spool = SpoolReader(capture.spool_path)
        self._in_hand = InHand(capture.spool_path)
        self._database = LogsDatabase(capture.database_path, full_sync=capture.fsync)
        self._prompt_time = PromptTime(capture.spool_path) if gives_way else None
        self._nice = ThreadPoolExecutor(1, "nice", initializer=let_go_first)
        self._idle = ThreadPoolExecutor(1, "idle", initializer=give_way)
        self._hook_tasks: set[asyncio.Task[None]] = set()
        self.ingested = 0

    async def run(self, stop: asyncio.Event, *, patience: float, at_most: float = inf) -> bool:
        """Follow the spool until `stop`, then drain it. Returns whether it was emptied: see `drain`."""
        pause = POLL_SECONDS
        opened = False
        while not stop.is_set():
            try:
                if not opened:
                    # Before the first exchange, beside whose end `llm` may write, and migrate first.
                    self._database.open()
                    opened = True
                await self._pass(self._capture.settle, stop.is_set)
                pause = POLL_SECONDS
            except StoreUnavailable as exc:
                if pause == POLL_SECONDS:
                    logger.warning("%s; exchanges wait in %s", exc, self._capture.spool_path)
                pause = min(pause * 2, 5.0)
            await _wait(stop, pause)
        return await self.drain(patience=patience, at_most=at_most)

    async def drain(self, *, patience: float, at_most: float = inf) -> bool:
        """Ingest all that has ended. False where the database could not be written for `patience` seconds, or where
        something is left after `at_most` seconds."""
        deadline = time.monotonic() + patience
        end = time.monotonic() + at_most
        while True:
            before = self.ingested
            try:
                await self._pass(0.0, lambda: time.monotonic() > end)
                break
            except StoreUnavailable as exc:
                if self.ingested > before:
                    deadline = time.monotonic() + patience
                if time.monotonic() + POLL_SECONDS > min(deadline, end):  # there is no time for another try
                    logger.error("%s; what is left stays in %s", exc, self._capture.spool_path)
                    return False
                await asyncio.sleep(POLL_SECONDS)
        if self._hook_tasks:
            await asyncio.wait(self._hook_tasks, timeout=end - time.monotonic() if end < inf else None)
            self._spool.save()
        if time.monotonic() > end and (waiting := backlog(self._capture.spool_path)["waiting_bytes"]):
            logger.warning(
                "%s bytes wait in %s: the next start goes on with them, or `llmproxy ingest --drain`",
                f"{waiting:,}",
                self._capture.spool_path,
            )
            return False
        return True

    def close(self) -> None:
        self._nice.shutdown()
        self._idle.shutdown()
        self._database.close()
        self._in_hand.close()
        self._spool.close()

    async def _pass(self, settle: float, stop: Callable[[], bool]) -> None:
        """Ingest what has ended by now, in batches: one transaction for many exchanges where many wait."""
        exchanges = self._spool.exchanges(settle)
        while not stop() and (batch := await self._in_turn(partial(self._read, exchanges, stop))):
            recorded = [each.recorded for each in batch]
            try:
                waiting = deque(batch)
                while waiting:
                    await self._in_turn(partial(self._write, waiting))
            except StoreUnavailable:
                self._spool.put_back(recorded)
                raise
            self.ingested += len(batch)
            turns = [(each.reading.turn, each.exchange) for each in batch if each.reading.turn and each.exchange]
            if self._hooks and turns:
                while len(self._hook_tasks) >= HOOK_BATCHES:
                    await asyncio.wait(self._hook_tasks, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.get_running_loop().create_task(self._call_hooks(turns, recorded))
                self._hook_tasks.add(task)
                task.add_done_callback(self._hook_tasks.discard)
            else:
                self._acknowledge(recorded)
            self._spool.save()
        self._spool.save()

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """Do it at once where there is time left for that, after those who are forwarded for where there are any, and
        else in a thread that gives way to all others."""
        prompt_time = self._prompt_time
        if prompt_time is None:
            return work()
        loop = asyncio.get_running_loop()
        if prompt_time.left() <= 0:
            return await loop.run_in_executor(self._idle, work)

        def prompt() -> T:
            begun = time.thread_time()
            try:
                return work()
            finally:
                prompt_time.spend(time.thread_time() - begun)

        return await loop.run_in_executor(self._nice, prompt) if prompt_time.busy else prompt()

    def _read(self, exchanges: Iterator[Recorded], stop: Callable[[], bool]) -> "list[_Understood]":
        """Take the next exchanges out of the spool, and understand them; none where there are no more."""
        prompt_time = self._prompt_time
        prompt = prompt_time is not None and prompt_time.left() > 0
        most = PROMPT_BATCH_EXCHANGES if prompt else BATCH_EXCHANGES
        batch: list[_Understood] = []
        size = 0
        for recorded in exchanges:
            batch.append(_understand(recorded) if self._in_hand.take(recorded.id) else _left(recorded))
            size += recorded.size
            if len(batch) >= most or size >= BATCH_BYTES or stop():
                break
            if prompt_time is not None and not prompt and prompt_time.left() > SAVED_SECONDS / 2:
                break  # the rest need not give way
        return batch

    def _write(self, waiting: "deque[_Understood]") -> None:
        """Write what waits into the database, each exchange exactly once, as far as one transaction goes: that there is
        time for the next at once may have come about meanwhile."""
        with self._database.transaction() as db:
            until = time.monotonic() + TRANSACTION_SECONDS
            known = known_exchanges(db.conn, [each.recorded.id for each in waiting])
            recorder = DatabaseRecorder(db, self._capture.raw)
            while waiting:
                each = waiting.popleft()
                if each.recorded.id not in known:
                    self._in_hand.take(each.recorded.id)
                    _write_exchange(db, recorder, each)
                if time.monotonic() > until:
                    break
        if not waiting:
            self._in_hand.put_down()

    async def _call_hooks(self, turns: list[tuple[Turn, Exchange]], batch: list[Recorded]) -> None:
        for turn, exchange in turns:
            await call_hooks(self._hooks, turn, exchange)
        self._acknowledge(batch)

    def _acknowledge(self, batch: list[Recorded]) -> None:
        for recorded in batch:
            recorded.acknowledge()


def read(exchange: Exchange) -> Reading:
    """What an exchange means, or why that cannot be said."""
    retrieval = is_retrieval(exchange.method, exchange.path)
    api = "responses" if retrieval else api_of(exchange.method, exchange.path)
    if api is None:
        # A list of models or an upload is no model call; a call that we have no reader for is the next thing to learn.
        unknown = exchange.method == "POST" and not holds_no_conversation(exchange.path)
        return Reading(None, None, "no reader for this path" if unknown else None)
    try:
        if retrieval:
            return _read_retrieval(exchange)
        return Reading(api, _turn(exchange, api, exchange.request_body), None)
    except NotReconstructed as exc:
        return Reading(api, None, str(exc))
    except Exception as exc:  # a mistake of ours must not cost the exchange, nor its neighbours: it is kept raw
        logger.exception("exchange %s cannot be reconstructed", exchange.id)
        return Reading(api, None, f"internal error: {type(exc).__name__}")


def _read_retrieval(exchange: Exchange) -> Reading:
    """No model call, but where it brought the answer to one."""
    try:
        turn = retrieved(_turn(exchange, "responses", b"{}"))
    except NotReconstructed:
        turn = None
    return Reading("responses" if turn else None, turn, None)


def _turn(exchange: Exchange, api: Api, request_body: bytes) -> Turn:
    reconstruction = Reconstruction(
        api,
        request_headers=exchange.request_headers,
        request_body=request_body,
        request_truncated=exchange.request_truncated,
    )
    if exchange.status is not None:
        reconstruction.response(exchange.status, exchange.response_headers)
        reconstruction.feed_all(exchange.response_body)
    return reconstruction.finish(complete=exchange.outcome == "complete" and not exchange.response_truncated)


@dataclass(frozen=True, slots=True)
class _Understood:
    """An exchange of the spool and what it means; `exchange` is None where its records make no sense."""

    recorded: Recorded
    exchange: Exchange | None
    reading: Reading


def _understand(recorded: Recorded) -> _Understood:
    try:
        exchange = recorded.load()
    except (ValueError, KeyError, IndexError) as exc:
        logger.error("exchange %s cannot be read from the spool: %r; it is kept aside", recorded.id, exc)
        return _Understood(recorded, None, Reading(None, None, f"spool record unreadable: {type(exc).__name__}"))
    return _Understood(recorded, exchange, read(exchange))


def _left(recorded: Recorded) -> _Understood:
    reason = f"left aside: {MOST_ATTEMPTS} ingesters in a row ended over it"
    logger.error("exchange %s: %s; it is in the folder `damaged` of the spool", recorded.id, reason)
    return _Understood(recorded, None, Reading(None, None, reason))


def _write_exchange(db: Database, recorder: DatabaseRecorder, understood: _Understood) -> None:
    recorded, exchange, reading = understood.recorded, understood.exchange, understood.reading
    if exchange is None:
        recorded.set_aside()
        _write_row(db, recorded, reading.reason)
        return
    try:
        with db.atomic():
            recorder.write(exchange, reading)
    except OSError:
        raise  # the database's trouble, not this exchange's
    except Exception as exc:  # as in `read`: the exchange is kept raw, and the others of its batch are written
        if isinstance(exc, sqlite3.DatabaseError):
            _raise_the_databases_own(db, exc)
        logger.exception("exchange %s cannot be stored as a turn", exchange.id)
        reason = f"internal error: {type(exc).__name__}"
        try:
            with db.atomic():
                recorder.write(exchange, Reading(reading.api, None, reason))
        except (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, ValueError, OverflowError):
            recorded.set_aside()
            _write_row(db, recorded, reason)


def _write_row(db: Database, recorded: Recorded, reason: str | None) -> None:
    insert(
        db.conn,
        "llmproxy_exchange_rows",
        {"id": recorded.id, "outcome": "interrupted", "reason": reason, "started_utc": utc(recorded.ended)},
    )


def _raise_the_databases_own(db: Database, error: sqlite3.DatabaseError) -> None:
    """Raise what is the database's trouble, so that the exchange waits in the spool; return where it is the
    exchange's.

    A constraint may be broken by either: a damaged table or index holds what nobody wrote. What names no constraint
    (no extended code, sqlite.org/rescode.html) comes from the search index, which `quick_check` does not look into.
    """
    if isinstance(error, sqlite3.DataError | sqlite3.ProgrammingError | sqlite3.NotSupportedError):
        return
    if not isinstance(error, sqlite3.IntegrityError):
        raise error
    if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT:
        raise sqlite3.DatabaseError(
            f"{error}: its search index is damaged; mend it with"
            " \"insert into turn_search_fts(turn_search_fts) values ('rebuild')\""
        ) from error
    found = db.conn.execute("pragma quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"{error}: it is damaged: {found}") from error


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
