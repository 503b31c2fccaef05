"""`llmproxy stats`: what was recorded, counted."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from llmproxy.capture.spool_reader import backlog
from llmproxy.config import CaptureConfig
from llmproxy.store.read_only import NothingCaptured, connect_read_only


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts, most first.

    - `outcomes`: how exchanges ended; `models`: exchanges, input and output tokens for each upstream and model;
      `not_reconstructed`: why there is no turn; `notes`: what was seen in turns and not understood.
    - `spool`: what waits, in segments and bytes; `damaged`: pieces kept aside.
    """

    exchanges: int
    turns: int
    outcomes: Mapping[str, int]
    models: Sequence[Mapping[str, Any]]
    not_reconstructed: Mapping[str, int]
    notes: Mapping[str, int]
    spool: Mapping[str, int]
    damaged: int


def collect(capture: CaptureConfig) -> Statistics:
    """Count what is in the database and in the spool. Raises `NothingCaptured`."""
    with opened(capture) as connection:
        return _collect(connection, capture)


@contextmanager
def opened(capture: CaptureConfig) -> Iterator[sqlite3.Connection]:
    """The database, read-only. Raises `NothingCaptured`, also where reading it fails inside."""
    path = capture.database_path
    connection = connect_read_only(path)
    try:
        yield connection
    except sqlite3.DatabaseError as exc:
        raise NothingCaptured(f"{path}: cannot be counted: {exc}") from None
    finally:
        connection.close()


def _collect(db: sqlite3.Connection, capture: CaptureConfig) -> Statistics:
    def counts(sql: str) -> dict[str, int]:
        return dict(db.execute(sql).fetchall())

    table = "llmproxy_exchanges"
    damaged = capture.spool_path / "damaged"
    return Statistics(
        exchanges=db.execute(f"select count(*) from {table}").fetchone()[0],
        turns=db.execute(f"select count(*) from {table} where turn_id is not null").fetchone()[0],
        outcomes=counts(f"select outcome, count(*) from {table} group by 1 order by 2 desc, 1"),
        models=[
            dict(zip(("upstream", "model", "exchanges", "input_tokens", "output_tokens"), row, strict=True))
            for row in db.execute(
                f"select upstream, coalesce(model, ''), count(*), coalesce(sum(input_tokens), 0),"
                f" coalesce(sum(output_tokens), 0) from {table} group by 1, 2 order by 3 desc, 1, 2"
            )
        ],
        not_reconstructed=counts(
            f"select reason, count(*) from {table} where reason is not null group by 1 order by 2 desc, 1"
        ),
        notes=counts(
            f"select note.value, count(*) from {table}, json_each({table}.notes) as note group by 1 order by 2 desc, 1"
        ),
        spool=backlog(capture.spool_path),
        damaged=len(list(damaged.iterdir())) if damaged.is_dir() else 0,
    )


def render(statistics: Statistics, *, as_json: bool) -> str:
    """As text for a terminal, or as JSON."""
    if as_json:
        return json.dumps(asdict(statistics), indent=2)
    lines = [f"{statistics.exchanges} exchanges, {statistics.turns} turns"]
    lines += _section("ended", statistics.outcomes)
    if statistics.models:
        lines += ["", "upstream / model".ljust(48) + "exchanges   tokens in  tokens out"]
        for row in statistics.models:
            name = f"{row['upstream']} / {row['model'] or '-'}"
            lines.append(f"{name:<48}{row['exchanges']:>9}{row['input_tokens']:>12}{row['output_tokens']:>12}")
    lines += _section("no turn, because", statistics.not_reconstructed)
    lines += _section("seen and not understood", statistics.notes)
    spool = statistics.spool
    lines += ["", f"in the spool: {spool['waiting_bytes']} bytes not ingested yet, {spool['segments']} segments"]
    if statistics.damaged:
        lines.append(f"              {statistics.damaged} damaged pieces kept aside")
    return "\n".join(lines)


def _section(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return ["", title, *(f"{count:>9}  {name}" for name, count in counts.items())]
