"""Which captured turns are meant: the one way in which `bench` and `export` choose them."""

import random
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

# SQLite allows fewer variables in one statement in its older builds (https://www.sqlite.org/limits.html).
_VARIABLES = 500


class UnknownTurns(ValueError):
    """Ids were given that no turn has. The message names the first of them."""

    def __init__(self, ids: list[str]) -> None:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        super().__init__(f"no turn has the id {ids[0]}{more}; `llm logs --json` lists those there are")
        self.ids = ids


class BadQuery(ValueError):
    """The full text query cannot be searched for."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked of captured turns; all of it must hold. Empty, it means every turn.

    - `query`: full text in prompt and answer, in FTS5's language (https://www.sqlite.org/fts5.html#full_text_query_syntax).
    - `model`: the model asked for or the one that answered, `*` stands for anything (``gpt-5*``).
    - `since`: what began at this moment or later, as `parse_since` gives it.
    - `thread`, `upstream`, `client`: by id or name. `tool`: the answer calls the tool of this name.
    - `limit`: the newest so many of those; with `ids` the first so many.
    - `sample`: of what is left, so many at random, the same ones for the same `seed`.
    - `ids`: only these, in this order.
    """

    query: str | None = None
    model: str | None = None
    since: str | None = None
    thread: str | None = None
    upstream: str | None = None
    client: str | None = None
    tool: str | None = None
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    ids: tuple[str, ...] | None = None


# The messages of a turn's answer: from its tip up to where its input ends.
_CALLS_TOOL = """exists (
    with recursive said(hash) as (
        select turns.tip_message_hash where turns.tip_message_hash is not turns.parent_message_hash
        union
        select messages.parent_hash from messages join said on messages.hash = said.hash
        where messages.parent_hash is not null and messages.parent_hash is not turns.parent_message_hash
    )
    select 1 from parts join said on parts.message_hash = said.hash
    where parts.type = 'tool_call' and parts.tool_name = ?
)"""

_CONDITIONS = {
    "query": "turns.id in (select turn_id from turn_search where id in"
    " (select rowid from turn_search_fts where turn_search_fts match ?))",
    "model": "(exchanges.model glob ? or turns.resolved_model glob ?)",
    "since": "exchanges.started_utc >= ?",
    "thread": "turns.thread_id = ?",
    "upstream": "exchanges.upstream = ?",
    "client": "exchanges.client = ?",
    "tool": _CALLS_TOOL,
}


def select(database: sqlite3.Connection, selection: Selection) -> list[str]:
    """The ids of the turns that are meant, in the order of capture, or in that of `selection.ids`.

    A request with several answers counts once, by its first; what `llm` wrote itself is left out. Raises
    `UnknownTurns`, `BadQuery`, and `sqlite3.Error` for a database that holds nothing captured.
    """
    found = _matching(database, selection)
    if selection.ids is not None:
        wanted = list(dict.fromkeys(selection.ids))
        unknown = sorted(set(wanted) - _known(database, wanted, "turns", "id"), key=wanted.index)
        if unknown:
            raise UnknownTurns(unknown)
        matching = set(found)
        found = [id for id in wanted if id in matching][: selection.limit]
    elif selection.limit is not None:
        found = found[max(len(found) - selection.limit, 0) :]
    if selection.sample is not None and selection.sample < len(found):
        places = random.Random(selection.seed).sample(range(len(found)), selection.sample)
        found = [found[at] for at in sorted(places)]
    return found


def _matching(database: sqlite3.Connection, selection: Selection) -> list[str]:
    conditions: list[str] = []
    values: dict[str, Any] = {}
    for name, condition in _CONDITIONS.items():
        value = getattr(selection, name)
        if value is not None:
            conditions.append(condition.replace("?", f":{name}"))
            values[name] = value
    sql = (
        "select turns.id from llmproxy_exchanges as exchanges join turns on turns.id = exchanges.turn_id"
        f" where {' and '.join(conditions) or 'true'} order by exchanges.id"
    )
    try:
        return [row[0] for row in database.execute(sql, values)]
    except sqlite3.OperationalError as exc:
        if selection.query is None or "no such table" in str(exc):
            raise
        raise BadQuery(
            f"{selection.query!r} is no full text query ({exc}); put what is to be found to the letter into quotes:"
            f" '\"{selection.query}\"'"
        ) from exc


def left_out(database: sqlite3.Connection, selection: Selection) -> int:
    """How many of `selection.ids` cannot be selected: turns that `llm` wrote itself, and answers behind a first."""
    wanted = list(dict.fromkeys(selection.ids or ()))
    return len(wanted) - len(_known(database, wanted, "llmproxy_exchanges", "turn_id"))


def _known(database: sqlite3.Connection, ids: Iterable[str], table: str, column: str) -> set[str]:
    wanted = list(ids)
    known: set[str] = set()
    for at in range(0, len(wanted), _VARIABLES):
        some = wanted[at : at + _VARIABLES]
        marks = ",".join("?" * len(some))
        known.update(
            row[0] for row in database.execute(f"select {column} from {table} where {column} in ({marks})", some)
        )
    return known


def parse_since(since: str) -> str:
    """A moment as the database has it: from ISO 8601 (UTC where it names no zone), or `30m`, `12h`, `7d` before now.

    Raises `ValueError`.
    """
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    if since[:-1].isdigit() and since[-1:] in units:
        moment = datetime.now(UTC) - timedelta(**{units[since[-1]]: int(since[:-1])})
    else:
        moment = datetime.fromisoformat(since)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat()
