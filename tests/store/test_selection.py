"""Choosing captured turns."""

import sqlite3

import pytest

from llmproxy.store.selection import BadQuery, Selection, UnknownTurns, left_out, parse_since, select
from tests.store.conversations import Recordings, assistant, call, result, user


@pytest.fixture
def recorded() -> tuple[sqlite3.Connection, list[str]]:
    recordings = Recordings()
    ids = [
        recordings.exchange([user("about cats")], assistant("they purr")),
        recordings.exchange(
            [user("weather?")], assistant("", call("call_0123456789abcdef", "get_weather", city="Ulm"))
        ),
        recordings.exchange(
            [
                user("weather?"),
                assistant("", call("call_0123456789abcdef", "get_weather", city="Ulm")),
                result("call_0123456789abcdef", "rain"),
            ],
            assistant("it rains"),
        ),
        recordings.exchange([user("pick")], assistant("one"), assistant("two"), model="gpt-5-mini", resolved_model="x"),
    ]
    recordings.write()
    return recordings.db.conn, ids


def test_everything_in_the_order_of_capture_and_several_answers_once(
    recorded: tuple[sqlite3.Connection, list[str]],
) -> None:
    db, ids = recorded
    assert select(db, Selection()) == ids


def test_each_condition(recorded: tuple[sqlite3.Connection, list[str]]) -> None:
    db, ids = recorded
    assert select(db, Selection(query="purr")) == ids[:1]
    assert select(db, Selection(query="cats OR rains")) == [ids[0], ids[2]]
    assert select(db, Selection(model="gpt-5*")) == ids[3:]
    assert select(db, Selection(model="x")) == ids[3:]
    assert select(db, Selection(since="2023-11-14T22:13:23+00:00")) == ids[2:]
    assert select(db, Selection(thread=ids[1])) == ids[1:3]
    assert select(db, Selection(upstream="up", limit=2)) == ids[2:]
    assert select(db, Selection(upstream="other")) == []
    assert select(db, Selection(client="nobody")) == []
    # The turn that calls it, not the one whose history holds the call.
    assert select(db, Selection(tool="get_weather")) == ids[1:2]
    assert select(db, Selection(tool="get_weather", query="cats")) == []


def test_ids_keep_their_order(recorded: tuple[sqlite3.Connection, list[str]]) -> None:
    db, ids = recorded
    assert select(db, Selection(ids=(ids[2], ids[0], ids[2]))) == [ids[2], ids[0]]
    assert select(db, Selection(ids=(ids[2], ids[0]), limit=1)) == [ids[2]]
    assert select(db, Selection(ids=(ids[2], ids[0]), query="cats")) == [ids[0]]
    assert select(db, Selection(ids=())) == []
    with pytest.raises(UnknownTurns, match="the id zz and 1 more"):
        select(db, Selection(ids=(ids[0], "zz", "yy")))


def test_ids_of_what_llm_wrote_itself_are_left_out(recorded: tuple[sqlite3.Connection, list[str]]) -> None:
    db, ids = recorded
    db.execute("insert into turns (id, model) values ('llms', 'm')")
    among = Selection(ids=(ids[2], "llms", "llms", ids[0]))
    assert select(db, among) == [ids[2], ids[0]]
    assert left_out(db, among) == 1
    assert left_out(db, Selection(ids=(ids[2],))) == left_out(db, Selection()) == 0


def test_a_sample_is_the_same_for_the_same_seed(recorded: tuple[sqlite3.Connection, list[str]]) -> None:
    db, ids = recorded
    samples = {tuple(select(db, Selection(sample=2, seed=seed))) for seed in range(20)}
    assert len(samples) > 1
    assert all(list(sample) == sorted(sample) and len(sample) == 2 for sample in samples)
    assert select(db, Selection(sample=2, seed=7)) == select(db, Selection(sample=2, seed=7))
    assert select(db, Selection(sample=9)) == ids


def test_a_query_that_is_none_is_told(recorded: tuple[sqlite3.Connection, list[str]]) -> None:
    with pytest.raises(BadQuery, match="into quotes"):
        select(recorded[0], Selection(query='"'))


def test_moments() -> None:
    assert parse_since("2026-01-31") == "2026-01-31T00:00:00+00:00"
    assert parse_since("2026-01-31T12:00+02:00") == "2026-01-31T10:00:00+00:00"
    assert parse_since("1h") < parse_since("30m")
    with pytest.raises(ValueError):
        parse_since("yesterday")
