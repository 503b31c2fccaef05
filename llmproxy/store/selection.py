"""Choosing captured turns: by text, model, time, thread, upstream, client, tool; all of them, or a sample."""

import random
from dataclasses import dataclass

from sqlite_utils import Database

# Answers that our own benchmarks asked for are chosen only by name.
_BENCH = "bench:"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which turns. All that is given must hold; `since` is a time as the database has it.

    - `limit`: the newest so many; `sample`: of those so many at random, the same ones for the same `seed`.
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


def select(db: Database, selection: Selection) -> list[str]:
    """The ids of the chosen turns, oldest first. Raises `sqlite3.OperationalError` for a query that is none (FTS5)."""
    where, values = ["1"], []
    for column, value in (
        ("turns.model", selection.model),
        ("turns.thread_id", selection.thread),
        ("llmproxy_exchanges.upstream", selection.upstream),
        ("llmproxy_exchanges.client", selection.client),
    ):
        if value is not None:
            where.append(f"{column} = ?")
            values.append(value)
    if selection.client is None:
        where.append("coalesce(llmproxy_exchanges.client, '') not like ?")
        values.append(_BENCH + "%")
    if selection.since is not None:
        where.append("turns.datetime_utc >= ?")
        values.append(selection.since)
    if selection.tool is not None:
        where.append(
            "turns.id in (select turn_id from turn_tools join tools on tools.id = turn_tools.tool_id where name = ?)"
        )
        values.append(selection.tool)
    if selection.query is not None:
        # Every message of the turn's own: its answer, and what was asked last.
        where.append(
            "exists (select 1 from parts where parts.text like ? and parts.message_hash in"
            " (turns.tip_message_hash, turns.parent_message_hash))"
        )
        values.append(f"%{selection.query}%")
    limit = f" limit {int(selection.limit)}" if selection.limit is not None else ""
    rows = db.execute(
        "select turns.id from turns left join llmproxy_exchanges on llmproxy_exchanges.turn_id = turns.id"
        f" where {' and '.join(where)} order by turns.id desc{limit}",
        values,
    )
    ids = sorted(row[0] for row in rows)
    if selection.sample is not None and selection.sample < len(ids):
        ids = sorted(random.Random(selection.seed).sample(ids, selection.sample))
    return ids
