"""Ingest: from the spool into the database and to the hooks, whatever stands in the way."""

import asyncio
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from llm.logs import LogStore
from llm.parts import TextPart
from sqlite_utils import Database

import llmproxy.ingest
import llmproxy.prompt_time
from llmproxy.capture.exchange import Exchange
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.spool_lock import SpoolLock
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.config import CaptureConfig, ConfigError
from llmproxy.hooks import Hook, load_hooks
from llmproxy.ingest import Ingester
from llmproxy.ingester import supervise
from llmproxy.metrics import Metrics
from llmproxy.prompt_time import PromptTime
from llmproxy.reconstruct import Reconstruction
from llmproxy.reconstruct.turn import Turn
from llmproxy.reingest import reingest


def capture(tmp_path: Path, **settings: Any) -> CaptureConfig:
    return CaptureConfig(database=tmp_path / "logs.db", spool=tmp_path / "spool", **settings)


def request(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


def response(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}).encode()


def record(writer: SpoolWriter, text: str, answer: bytes | None = None, *, ended: bool = True) -> None:
    tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
    headers = [(b"content-type", b"application/json")]
    recording = tee.begin(RequestHead("up", None, "POST", b"/v1/chat/completions", headers))
    recording.request_body(request(text))
    recording.request_written()
    if ended:
        recording.response(200, headers)
        recording.response_body(response(f"re: {text}") if answer is None else answer)
        recording.end("complete")


async def ingest(settings: CaptureConfig, hooks: list[Hook] | None = None, patience: float = 0.3) -> bool:
    ingester = Ingester(settings, hooks or [])
    try:
        return await ingester.drain(patience=patience)
    finally:
        ingester.close()


def rows(settings: CaptureConfig, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(settings.database_path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def recorded(settings: CaptureConfig, *texts: str) -> None:
    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        for text in texts:
            record(writer, text)
        writer.close()

    asyncio.run(run())


def test_what_is_read_twice_is_written_once(tmp_path: Path) -> None:
    settings = capture(tmp_path)

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        record(writer, "one")
        for _ in range(3):
            assert await ingest(settings)
            for ack in settings.spool_path.glob("*.ack"):
                ack.unlink()  # as if the ingester had been killed between the commit and its note of it
        record(writer, "two")
        assert await ingest(settings)
        writer.close()
        assert await ingest(settings)

    asyncio.run(run())
    assert rows(settings, "select count(*) from llmproxy_exchanges") == [(2,)]
    assert rows(settings, "select count(*) from turns") == [(2,)]
    assert list(settings.spool_path.glob("*.spool")) == []


def test_an_answer_that_was_made_in_the_background_is_a_turn_once(tmp_path: Path) -> None:
    settings = capture(tmp_path)
    asked = {"id": "resp_1", "object": "response", "model": "m", "background": True, "instructions": "s"}
    queued = {**asked, "status": "queued", "output": []}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "42"}]}
    usage = {"input_tokens": 3, "output_tokens": 4}
    completed = {**asked, "status": "completed", "output": [said], "usage": usage}
    after = {"id": "resp_2", "model": "m", "status": "completed", "output": [said], "previous_response_id": "resp_1"}
    first = {"model": "m", "input": "q", "instructions": "s", "background": True}
    then = {"model": "m", "input": "q2", "previous_response_id": "resp_1"}
    stranger = {**completed, "id": "resp_0"}
    calls: list[tuple[str, str, Any, Any]] = [
        ("POST", "", first, queued),
        ("GET", "/resp_1", None, queued),
        ("GET", "/resp_1", None, completed),
        ("GET", "/resp_1?include=x", None, completed),
        ("GET", "/resp_0", None, stranger),
        ("POST", "", then, after),
    ]

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
        headers = [(b"content-type", b"application/json")]
        for method, path, body, answer in calls:
            recording = tee.begin(RequestHead("up", None, method, b"/v1/responses" + path.encode(), headers))
            if body is not None:
                recording.request_body(json.dumps(body).encode())
            recording.request_written()
            recording.response(200, headers)
            recording.response_body(json.dumps(answer).encode())
            recording.end("complete")
        writer.close()
        await ingest(settings)

    asyncio.run(run())
    assert rows(settings, "select count(*), sum(input_tokens), sum(output_tokens) from llmproxy_exchanges") == [
        (6, 3, 4)
    ]
    turns = rows(settings, "select id, thread_id, input_tokens from turns order by id")
    assert [tokens for _, _, tokens in turns] == [None, 3, None]
    assert {thread for _, thread, _ in turns} == {turns[0][0]}
    with closing(Database(str(settings.database_path))) as db:
        said_in_thread = [
            (message.role, "".join(part.text for part in message.parts if isinstance(part, TextPart)))
            for message in LogStore(db).thread_messages(turns[0][0])
        ]
    assert said_in_thread == [("user", "q"), ("assistant", "42"), ("user", "q2"), ("assistant", "42")]


def test_more_than_there_is_time_for_gives_way_and_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in ("SHARE_BUSY", "SHARE_QUIET"):
        monkeypatch.setattr(llmproxy.prompt_time, share, 0.0)
    monkeypatch.setattr(llmproxy.prompt_time, "SAVED_SECONDS", 0.01)
    threads = set()
    write = Ingester._write

    def seen(ingester: Ingester, waiting: deque[Any]) -> None:
        threads.add(threading.current_thread().name)
        write(ingester, waiting)

    monkeypatch.setattr(Ingester, "_write", seen)
    settings = capture(tmp_path)
    texts = [f"question {number}" for number in range(600)]
    recorded(settings, *texts)
    asyncio.run(followed(settings, len(texts)))
    assert "idle_0" in threads
    written = rows(settings, "select text from parts where text like 'question %' order by id")
    assert written == [(text,) for text in texts]


def test_what_has_begun_to_give_way_does_not_where_there_is_time_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is busy with other things an idle thread may take minutes for the rest of a batch."""
    left = 0.0
    threads = []
    write = Ingester._write

    def seen(ingester: Ingester, waiting: deque[Any]) -> None:
        nonlocal left
        threads.append(threading.current_thread().name)
        assert len(waiting) == 20 - len(threads) + 1  # all of them are one batch
        left = 1.0
        write(ingester, waiting)

    monkeypatch.setattr(PromptTime, "left", lambda _: left)
    monkeypatch.setattr(llmproxy.ingest, "TRANSACTION_SECONDS", 0.0)
    monkeypatch.setattr(Ingester, "_write", seen)
    settings = capture(tmp_path)
    recorded(settings, *map(str, range(20)))
    asyncio.run(followed(settings, 20))
    assert len(threads) == 20 and threads[0] == "idle_0" and "idle_0" not in threads[1:]


async def followed(settings: CaptureConfig, exchanges: int) -> None:
    """Run an ingester that gives way until it has so many."""
    ingester = Ingester(settings, gives_way=True)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(ingester.run(stop, patience=5.0))
        while ingester.ingested < exchanges:
            await asyncio.sleep(0.01)
        stop.set()
    assert running.result()
    ingester.close()


def test_what_is_in_flight_is_left_alone_until_its_writer_is_gone(tmp_path: Path) -> None:
    settings = capture(tmp_path)

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        record(writer, "in flight", ended=False)
        record(writer, "done")
        assert await ingest(settings)
        assert rows(settings, "select outcome from llmproxy_exchanges") == [("complete",)]
        writer.close()
        assert await ingest(settings)

    asyncio.run(run())
    found = rows(
        settings, "select outcome, turn_id is null, request_body from llmproxy_exchanges order by outcome desc"
    )
    assert found == [("interrupted", 1, request("in flight")), ("complete", 0, None)]


def test_hooks_are_given_each_turn_and_are_kept_apart(tmp_path: Path) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "two")
    given: list[tuple[str, str]] = []
    failures: list[str] = []

    async def good(turn: Turn, exchange: Exchange) -> None:
        text = turn.outputs[0].messages[0].to_dict()["parts"][0]["text"]  # type: ignore[typeddict-item]
        given.append((exchange.id, text))

    async def bad(turn: Turn, exchange: Exchange) -> None:
        failures.append(exchange.id)
        raise RuntimeError("a hook of somebody else's")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", lambda seconds, sleep=asyncio.sleep: sleep(0))
        assert asyncio.run(ingest(settings, [bad, good]))
    ids = [row[0] for row in rows(settings, "select id from llmproxy_exchanges order by rowid")]
    assert given == [(ids[0], "re: one"), (ids[1], "re: two")]
    assert failures == [ids[0]] * 3 + [ids[1]] * 3
    assert rows(settings, "select count(*) from turns") == [(2,)]


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such_name", "json:__doc__"])
def test_hooks_that_cannot_be_loaded_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"capture.hooks: " + name):
        load_hooks([name])


def test_a_mistake_of_ours_costs_neither_the_exchange_nor_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "poison", "three")

    class Broken(Reconstruction):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if b"poison" in kwargs["request_body"]:
                raise AttributeError("a bug")
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(llmproxy.ingest, "Reconstruction", Broken)
    assert asyncio.run(ingest(settings))
    found = rows(settings, "select reason, turn_id is null, request_body from llmproxy_exchanges order by rowid")
    assert found == [
        (None, 0, None),
        ("internal error: AttributeError", 1, request("poison")),
        (None, 0, None),
    ]
    monkeypatch.undo()
    done = reingest(settings, None)
    assert (done.read, done.new_turns, done.without_turn) == (1, 1, 0)
    assert rows(settings, "select count(*) from turns") == [(3,)]
    assert rows(settings, "select count(*) from llmproxy_exchanges where turn_id is not null") == [(3,)]


def test_a_turn_that_the_store_refuses_is_kept_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "poison")
    write_turn = llmproxy.store.llm_store.TurnStore.write_turn

    def refuse(self: Any, turn: Turn, *args: Any, **kwargs: Any) -> None:
        if b"poison" in str(turn.input).encode():
            raise OverflowError("too large for SQLite")
        write_turn(self, turn, *args, **kwargs)

    monkeypatch.setattr(llmproxy.store.llm_store.TurnStore, "write_turn", refuse)
    assert asyncio.run(ingest(settings))
    found = rows(settings, "select reason, turn_id is null from llmproxy_exchanges order by rowid")
    assert found == [(None, 0), ("internal error: OverflowError", 1)]
    assert rows(settings, "select count(*) from threads") == [(1,)]
    assert rows(settings, "select count(*) from llmproxy_turns") == [(1,)]


def change(settings: CaptureConfig, sql: str) -> None:
    connection = sqlite3.connect(settings.database_path)
    try:
        connection.executescript(sql)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "damage", ["update turn_search_fts_data set block = x'0011'", "delete from turn_search_fts_data"]
)
def test_damage_to_the_database_is_not_the_exchanges_fault(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one")
    assert asyncio.run(ingest(settings))
    sound = settings.database_path.read_bytes()
    change(settings, damage)
    recorded(settings, "two", "three")
    assert not asyncio.run(ingest(settings))
    assert rows(settings, "select count(*) from llmproxy_exchanges") == [(1,)]
    assert "stays in" in caplog.text and "turn_search_fts" in caplog.text
    if "update" in damage:
        (_, mend, *_) = caplog.messages[-1].split('"')
        change(settings, mend)
    else:
        settings.database_path.write_bytes(sound)
    assert asyncio.run(ingest(settings))
    assert rows(settings, "select count(*) from turns join turn_search on turn_id = turns.id") == [(3,)]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_constraint_that_an_exchange_breaks_costs_no_other(tmp_path: Path, is_damaged: bool) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one")
    assert asyncio.run(ingest(settings))
    forbid = "create trigger forbid before insert on parts when new.text like '%poison%'"
    change(settings, f"{forbid} begin select raise(abort, 'not here'); end; pragma wal_checkpoint(truncate)")
    if is_damaged:
        unused = "select rootpage, page_size from sqlite_master, pragma_page_size where name = 'fragments'"
        ((page, size),) = rows(settings, unused)
        with settings.database_path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(bytes(size))
    recorded(settings, "poison", "two")
    assert asyncio.run(ingest(settings)) is not is_damaged
    found = rows(settings, "select reason, turn_id is null from llmproxy_exchanges order by rowid")
    blamed = [] if is_damaged else [("internal error: IntegrityError", 1), (None, 0)]
    assert found == [(None, 0), *blamed]


def test_a_record_that_makes_no_sense_is_kept_aside(tmp_path: Path) -> None:
    settings = capture(tmp_path)

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        segment = writer.begin()
        writer.append_request(segment, b"request", b"0" * 26, 0, b"another version's request")
        writer.append_response(segment, b"end", b"0" * 26, 0, b"outcome: unheard-of")
        writer.release(segment)
        record(writer, "good")
        writer.close()
        assert await ingest(settings)

    asyncio.run(run())
    found = rows(settings, "select id, reason from llmproxy_exchanges order by rowid")
    assert found[0][0] == "0" * 26 and found[0][1].startswith("spool record unreadable")
    assert found[1][1] is None
    (kept,) = (settings.spool_path / "damaged").iterdir()
    assert b"another version's request" in kept.read_bytes()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A database that somebody else holds, and what lets it go."""
    connection = sqlite3.connect(tmp_path / "logs.db", isolation_level=None)
    connection.execute("create table theirs (x)")
    connection.execute("begin exclusive")
    yield lambda: connection.rollback()
    connection.close()


def test_a_locked_database_leaves_everything_in_the_spool(tmp_path: Path, locked: Callable[[], None]) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "two")
    assert not asyncio.run(ingest(settings, patience=0.0))
    locked()
    assert asyncio.run(ingest(settings))
    assert rows(settings, "select count(*) from turns") == [(2,)]


def test_one_ingester_at_a_time(tmp_path: Path) -> None:
    one, two = SpoolLock(tmp_path), SpoolLock(tmp_path)
    assert one.acquire() and not two.acquire()
    one.close()
    assert two.acquire()
    two.close()


def test_raw_bodies_are_kept_as_configured(tmp_path: Path) -> None:
    for raw, kept in (("all", [(1,), (1,)]), ("failed", [(0,), (1,)]), ("none", [(0,), (0,)])):
        settings = capture(tmp_path / raw, raw=raw)

        async def run(settings: CaptureConfig = settings) -> None:
            writer = SpoolWriter(settings.spool_path)
            record(writer, "good")
            record(writer, "bad", b"this is no JSON")
            writer.close()
            assert await ingest(settings)

        asyncio.run(run())
        assert rows(settings, "select response_body is not null from llmproxy_exchanges order by rowid") == kept


@pytest.mark.parametrize("raw", ["all", "failed", "none"])
def test_what_is_a_turn_already_is_read_again_and_stays_what_it_is(tmp_path: Path, raw: str) -> None:
    recorded(capture(tmp_path), "one", "two")
    assert asyncio.run(ingest(capture(tmp_path, raw="all")))
    tables = ("turns", "threads", "llmproxy_exchange_rows", "llmproxy_turns")
    settings = capture(tmp_path, raw=raw)
    before = [rows(settings, f"select * from {table}") for table in tables]
    done = reingest(settings, None)
    assert (done.read, done.new_turns, done.without_turn) == (2, 0, 0)
    after = [rows(settings, f"select * from {table}") for table in tables]
    assert [sorted(map(str, table)) for table in after] == [sorted(map(str, table)) for table in before]
    assert rows(settings, "select count(*) from turn_search_fts where turn_search_fts match 'two'") == [(1,)]


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    settings = capture(tmp_path / "made")
    recorded(settings, "one")
    assert asyncio.run(ingest(settings))
    assert settings.database_path.stat().st_mode & 0o777 == 0o600
    assert settings.spool_path.stat().st_mode & 0o777 == 0o700


def test_the_spools_lock_is_taken_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ingest that makes room."""

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock, other = SpoolLock(tmp_path), SpoolLock(tmp_path)
    assert lock.acquire() and not other.acquire()
    lock.close()
    other.close()


def test_the_end_of_its_input_is_seen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays readable: who looked at it again and again would leave no time for the draining."""
    times: list[None] = []

    class Counted(asyncio.Event):
        def set(self) -> None:
            times.append(None)
            super().set()

    settings = capture(tmp_path)
    recorded(settings, *(f"question {number}" for number in range(50)))
    monkeypatch.setattr("asyncio.Event", Counted)
    assert supervised(settings, monkeypatch) == 0
    assert len(times) == 1
    assert rows(settings, "select count(*) from turns") == [(50,)]


def supervised(settings: CaptureConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """The code with which an ingester ends whose server is gone as soon as it has told the settings."""
    ours, theirs = os.pipe()
    os.write(theirs, settings.model_dump_json().encode() + b"\n")
    os.close(theirs)
    with monkeypatch.context() as patched, open(ours) as stdin:
        patched.setattr("signal.signal", lambda *arguments: None)
        patched.setattr("sys.stdin", stdin)
        return supervise()


def test_a_backlog_keeps_nobody_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = capture(tmp_path)
    recorded(settings, *(f"question {number}" for number in range(50)))
    with monkeypatch.context() as patched:
        patched.setattr("llmproxy.ingester.DRAIN_SECONDS", 0.0)
        assert supervised(settings, patched) == 1
    assert f"bytes wait in {settings.spool_path}: the next start goes on with them" in caplog.text
    assert supervised(settings, monkeypatch) == 0
    assert rows(settings, "select count(*) from turns") == [(50,)]


def test_a_database_that_refuses_to_the_end_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one")
    settings.database_path.write_bytes(b"rubbish" * 1000)

    async def run() -> bool:
        ingester = Ingester(settings)
        try:
            return await ingester.drain(patience=0.3, at_most=0.3)
        finally:
            ingester.close()

    assert not asyncio.run(run())
    assert "not a database; what is left stays in" in caplog.text


def test_a_hook_keeps_nobody_from_ending(tmp_path: Path) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "two")
    given: list[str] = []

    async def hook(turn: Turn, exchange: Exchange) -> None:
        given.append(exchange.id)
        await asyncio.Event().wait()

    async def run() -> bool:
        ingester = Ingester(settings, [hook])
        try:
            return await ingester.drain(patience=0.3, at_most=0.5)
        finally:
            ingester.close()

    for _ in range(2):
        assert not asyncio.run(run())
    assert len(given) == 2 and given[0] == given[1], "what no hook has taken is given again"
    assert rows(settings, "select count(*) from turns") == [(2,)]


KILLED_BY_A_QUESTION = """
import asyncio, os, signal, sys
import llmproxy.ingest
from llmproxy.config import CaptureConfig
from llmproxy.ingest import Ingester

def read(exchange, read=llmproxy.ingest.read):
    if b"deadly" in exchange.request_body:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(exchange)

llmproxy.ingest.read = read
asyncio.run(Ingester(CaptureConfig.model_validate_json(sys.argv[1])).drain(patience=5.0))
"""


def test_an_exchange_that_ends_the_ingester_each_time_is_left_aside(tmp_path: Path) -> None:
    settings = capture(tmp_path)
    recorded(settings, "one", "deadly", "two", "three")
    command = [sys.executable, "-c", KILLED_BY_A_QUESTION, settings.model_dump_json()]
    ends = [subprocess.run(command, timeout=60, capture_output=True).returncode for _ in range(4)]
    assert ends == [-signal.SIGKILL] * 3 + [0]
    assert rows(settings, "select count(*) from turns") == [(3,)]
    assert rows(settings, "select outcome, reason from llmproxy_exchanges where turn_id is null") == [
        ("interrupted", "left aside: 3 ingesters in a row ended over it")
    ]
    (kept,) = (settings.spool_path / "damaged").iterdir()
    assert b"deadly" in kept.read_bytes()
