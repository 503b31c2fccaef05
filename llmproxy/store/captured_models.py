"""Which models were captured, and through which upstream: what the `llm` plug-in asks before it registers any.

`llm` asks at each of its starts, so these look-ups open the file read-only, follow an index and read a bounded number
of rows. A database that is missing, locked, older than llmproxy or broken knows nothing; `llm` itself says what is
wrong with it where it matters.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# About 2 ms; a model that none of these used is still found by the conversation that is asked for.
NEWEST_EXCHANGES = 1000
BUSY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CapturedModel:
    """A model that answered.

    - `name`: as it is stored with the turn, which is as the client asked for it.
    - `upstream`, `api`: what the exchange went through; None for a turn that `llm` logged by itself.
    """

    name: str
    upstream: str | None
    api: str | None


def captured_models(database: Path) -> list[CapturedModel]:
    """The models among the newest exchanges that were answered, those that were used last first."""
    rows = _rows(
        database,
        """
        select model, upstream, api from (
            select id, model, upstream, api, status, turn_id from llmproxy_exchanges order by id desc limit ?
        )
        where turn_id is not null and status < 400 and model is not null and api != 'embeddings'
        group by model, upstream, api order by max(id) desc
        """,
        [NEWEST_EXCHANGES],
    )
    return [CapturedModel(*row) for row in rows]


def model_of_conversation(database: Path, thread_id: str | None) -> CapturedModel | None:
    """The model of a conversation's last turn, which is the one that `llm -c` goes on with.

    - `thread_id`: None for the newest conversation, as `llm` finds it.
    """
    turns = _rows(
        database,
        "select id, model from turns where thread_id = coalesce(?, (select max(id) from threads))"
        " order by id desc limit 1",
        [thread_id],
    )
    for turn_id, model in turns:
        exchanges = _rows(database, "select upstream, api from llmproxy_exchanges where turn_id = ?", [turn_id])
        upstream, api = exchanges[0] if exchanges else (None, None)
        return CapturedModel(model, upstream, api) if model is not None else None
    return None


def _rows(database: Path, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    except sqlite3.OperationalError:  # there is no such file, or it may not be read
        return []
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError:  # no such table, or locked
        return []
    except sqlite3.DatabaseError:  # the file is no database
        return []
    finally:
        connection.close()
