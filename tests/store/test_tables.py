"""A database that an older version made is migrated with all that is in it, in one step, and gone on with."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llm.logs import LogStore
from sqlite_utils import Database

from llmproxy.capture.exchange import Exchange
from llmproxy.headers import Header
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.captured import read_turn
from llmproxy.store.header_sets import HeaderSets
from llmproxy.store.open_database import PAGE_BYTES, open_database
from llmproxy.store.tables import migrations
from llmproxy.store.threads import OF_EXCHANGE
from tests.store.conversations import Recordings, assistant, call, result, user

INDICES = "select name from sqlite_master where type = 'index' and name like 'llmproxy%' order by 1"


def exchanges(db: Any) -> list[Any]:
    """The exchanges, whatever shows them: a table has a rowid that is no column, a view one that is."""
    cursor = db.execute("select * from llmproxy_exchanges order by id")
    columns = [at for at, column in enumerate(cursor.description) if column[0] != "rowid"]
    return [[row[at] for at in columns] for row in cursor]


def headers(number: int) -> tuple[Header, ...]:
    return ((b"content-length", b"%d" % number), (b"x-own", b'"\xe9\\'), (b"x-own", b"again"))


def conversation() -> list[tuple[Exchange, Turn]]:
    """Three turns, the last with two answers, and what goes on from the second of them."""
    recordings = Recordings()
    said = [user("q"), assistant("a", call("call_kGm3Qz81xTb7Wp02", at=1)), result("call_kGm3Qz81xTb7Wp02", "r")]
    recordings.exchange(said[:1], said[1])
    recordings.exchange(said, assistant("one"), assistant("two"))
    recordings.exchange([*said, assistant("two"), user("go on")], assistant("on"))
    recordings.exchange([*said, assistant("two"), user("go on"), assistant("on"), user("and?")], assistant("end"))
    return [
        (replace(exchange, request_headers=headers(at), response_headers=headers(at + 1)[:2]), turn)
        for at, (exchange, turn) in enumerate(recordings.pending)
    ]


def written(turns: Sequence[tuple[Exchange, Turn]], db: Database | None = None) -> Recordings:
    recordings = Recordings(db)
    recordings.pending = list(turns)
    recordings.write()
    return recordings


def older(path: Path, turns: Sequence[tuple[Exchange, Turn]]) -> None:
    """A database as the version before had it, with turns in it."""
    db = Database(sqlite3.connect(path, isolation_level=None))
    LogStore(db)
    migrations.apply(db, stop_before="m009_header_sets")
    new = written(turns).db
    tables = "threads messages parts turns turn_search llmproxy_turns llmproxy_tool_calls llmproxy_exchanges".split()
    with db.atomic():
        for table in tables:
            names = ", ".join(db[table].columns_dict)
            marks = ", ".join("?" * len(db[table].columns))
            rows = new.execute(f"select {names} from {table}").fetchall()
            db.conn.executemany(f"insert into {table} ({names}) values ({marks})", rows)
    db.close()


def test_what_an_older_version_wrote_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    turns = conversation()
    older(tmp_path / "logs.db", turns[:3])
    before = sqlite3.connect(tmp_path / "logs.db")
    was = exchanges(before)
    before.execute("create view mine as select id, status from llmproxy_exchanges")
    before.execute("create view broken as select * from nowhere")
    before.close()
    db = open_database(tmp_path / "logs.db")
    assert exchanges(db) == was and len(was) == 3
    assert db.execute("select count(*) from mine").fetchone() == (3,)
    recordings = written(turns[3:], db)
    whole = written(turns)
    assert recordings.threads() == whole.threads() and len(set(whole.threads().values())) == 1
    assert recordings.tips() == whole.tips()
    assert exchanges(db) == exchanges(whole.db)
    assert db.execute(INDICES).fetchall() == whole.db.execute(INDICES).fetchall()
    for exchange, turn in turns:
        recordings.write_again(exchange, turn)
    assert recordings.threads() == whole.threads()
    assert recordings.tips() == whole.tips()
    assert LogStore(db).verify() == []
    db.close()
    open_database(tmp_path / "logs.db").close()


def test_a_migration_that_fails_leaves_the_older_versions_database(
    tmp_path: Path, closed_after: Callable[[Database], Database]
) -> None:
    older(tmp_path / "logs.db", conversation())
    between = Database(tmp_path / "logs.db")
    was = exchanges(between)
    between.execute("create table llmproxy_exchange_rows (in_the_way)")
    with pytest.raises(sqlite3.OperationalError, match="llmproxy_exchange_rows"):
        open_database(tmp_path / "logs.db")
    assert not between["llmproxy_header_sets"].exists()
    assert exchanges(between) == was
    between.execute("drop table llmproxy_exchange_rows")
    between.close()
    assert exchanges(closed_after(open_database(tmp_path / "logs.db"))) == was


def test_an_older_database_is_read_as_it_is(tmp_path: Path) -> None:
    turns = conversation()
    older(tmp_path / "logs.db", turns)
    with closing(sqlite3.connect(f"file:{tmp_path / 'logs.db'}?mode=ro", uri=True)) as connection:
        read = [read_turn(connection, exchange.id) for exchange, _ in turns]
    for (exchange, turn), captured in zip(turns, read, strict=True):
        assert captured is not None
        assert (captured.input, captured.status) == (turn.input, 200)
        assert [name.encode() for name, _ in captured.headers] == [name for name, _ in exchange.request_headers]


@pytest.mark.parametrize(
    "sql",
    [
        f"select turn_id from llmproxy_turns where {OF_EXCHANGE}",
        f"update llmproxy_turns set thread_id = :thread where {OF_EXCHANGE}",
        f"delete from llmproxy_turns where {OF_EXCHANGE}",
        "select max(exchange_id) from llmproxy_turns where thread_id = :thread",
        "select request_headers from llmproxy_exchanges where id = :exchange",
        "select request_headers from turns left join llmproxy_exchanges on turn_id = turns.id where turns.id = :thread",
    ],
)
def test_an_index_is_followed(sql: str) -> None:
    plan = Recordings().db.execute(f"explain query plan {sql}", {"exchange": "", "thread": ""}).fetchall()
    # One row's own fields are looked through.
    assert not [step for *_, step in plan if step.startswith(("SCAN", "MATERIALIZE")) and "SCAN field" not in step]


def test_exchanges_are_deleted_by_their_old_name() -> None:
    recordings = written(conversation())
    recordings.db.execute("delete from llmproxy_exchanges where started_utc >= '2023'")
    assert recordings.db["llmproxy_exchange_rows"].count == 0


def test_a_database_that_we_make_has_small_pages(tmp_path: Path, closed_after: Callable[[Database], Database]) -> None:
    db = closed_after(open_database(tmp_path / "logs.db"))
    assert db.execute("pragma page_size").fetchone() == (PAGE_BYTES,)


def read_back(db: Database) -> list[Any]:
    sql = "select request_headers, response_headers from llmproxy_exchanges order by id"
    return [[json.loads(each) for each in row] for row in db.execute(sql).fetchall()]


def test_header_fields_are_stored_once_and_read_back_as_they_were() -> None:
    turns = [
        (replace(exchange, id=f"01k{at:023d}", request_headers=sent, response_headers=came), turn)
        for (exchange, turn) in conversation()[:1]
        for at, (sent, came) in enumerate(
            [
                (((b"a", b"x" * 99), (b"b", b"1")), ()),
                (((b"a", b"x" * 99), (b"b", b"1")), ((b"a", b""), (b"b", b"1"))),
                (((b"a", b"x" * 99), (b"b", b'"$[0]\xff\\')), ((b"a", b"x" * 99), (b"b", b"null"))),
                (((b"b", b"1"), (b"a", b"x" * 99)), ((b"A", b"x" * 99), (b"b", b"1"))),
            ]
        )
    ]
    db = written(turns).db
    assert read_back(db) == [
        [[[name.decode("latin-1"), value.decode("latin-1")] for name, value in each] for each in pair]
        for pair in ((exchange.request_headers, exchange.response_headers) for exchange, _ in turns)
    ]
    # For no names at all, a and b, b and a, A and b.
    assert db["llmproxy_header_sets"].count == 4


def test_no_more_sets_are_made_than_are_looked_at() -> None:
    db = written(conversation()).db
    made = db["llmproxy_header_sets"].count
    ids = {
        HeaderSets(db.conn).columns("request", [(b"id", b"%d" % (at * 10**9))])["request_header_set"]
        for at in range(99)
    }
    assert len(ids) == 8 and db["llmproxy_header_sets"].count == made + 8
