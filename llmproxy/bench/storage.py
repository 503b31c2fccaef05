"""Runs in the database: written as they go, read back whole."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from sqlite_utils import Database

from llmproxy.bench.results import Check, Prompt, Result, Run, Target, Verdict
from llmproxy.config import Config
from llmproxy.store import bench_tables
from llmproxy.store.open_database import open_database

# As long as the ingester may take for a batch on a machine that is busy.
BUSY_SECONDS = 60

_JSON_COLUMNS = frozenset(("tool_calls", "checks", "verdicts", "notes"))
_COMPUTED = frozenset(("cost_usd",))  # when it is read: prices change, and what is unknown today may be known tomorrow
_COLUMNS = tuple(each.name for each in fields(Result) if each.name not in _COMPUTED)


class NoRun(Exception):
    """There is no such run; one line for the user."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A line of `llmproxy bench list`."""

    id: str
    started_utc: str
    ended_utc: str | None
    prompts: int
    targets: tuple[str, ...]
    done: int
    failed: int
    skipped: int


class Storage:
    """The runs of one database. Each method is a transaction of its own. Use it, and make it, in one thread."""

    def __init__(self, path: Path) -> None:
        """Raises `sqlite3.Error` or `OSError`."""
        self.db: Database = open_database(path)
        self._connection = self.db.conn
        self._connection.execute(f"pragma busy_timeout = {BUSY_SECONDS * 1000}")
        bench_tables.migrations.apply(self.db)

    def close(self) -> None:
        self.db.close()

    def create(self, run: Run) -> None:
        """Enter a run with its targets, its prompts and the results that it has already."""
        with self.db.atomic():
            self._insert(
                "llmproxy_bench_runs",
                id=run.id,
                started_utc=run.started_utc,
                ended_utc=run.ended_utc,
                settings=json.dumps(dict(run.settings)),
            )
            for position, target in enumerate(run.targets):
                options = json.dumps(dict(target.options))
                row = asdict(target) | {"options": options, "as_recorded": int(target.as_recorded)}
                self._insert("llmproxy_bench_targets", run_id=run.id, position=position, **row)
            for position, prompt in enumerate(run.prompts):
                self._insert("llmproxy_bench_prompts", run_id=run.id, position=position, **asdict(prompt))
            for result in run.results:
                self._write(run.id, result)

    def write(self, run_id: str, result: Result) -> None:
        """Enter a result, in place of an earlier one of the same prompt, target and repetition."""
        with self.db.atomic():
            self._write(run_id, result)

    def _write(self, run_id: str, result: Result) -> None:
        row = {name: getattr(result, name) for name in _COLUMNS}
        row["checks"] = [asdict(check) for check in result.checks]
        row["verdicts"] = [asdict(verdict) for verdict in result.verdicts]
        for name in _JSON_COLUMNS:
            row[name] = json.dumps(row[name])
        self._insert("llmproxy_bench_results", run_id=run_id, **row)

    def _insert(self, table: str, **row: Any) -> None:
        marks = ", ".join("?" * len(row))
        self._connection.execute(
            f"insert or replace into {table} ({', '.join(row)}) values ({marks})", list(row.values())
        )

    def set_turn(self, run_id: str, result: Result, turn_id: str) -> None:
        """Say which turn an answer became."""
        self._connection.execute(
            "update llmproxy_bench_results set turn_id = ?"
            " where run_id = ? and prompt = ? and target = ? and repeat = ?",
            [turn_id, run_id, result.prompt, result.target, result.repeat],
        )

    def end(self, run_id: str, ended: bool) -> None:
        """Say that a run has ended, or that it goes on."""
        self._connection.execute(
            "update llmproxy_bench_runs set ended_utc = ? where id = ?",
            [datetime.now(UTC).isoformat() if ended else None, run_id],
        )

    def forget_failed(self, run_id: str) -> None:
        """Remove the results of calls that failed, so that they are made again."""
        self._connection.execute("delete from llmproxy_bench_results where run_id = ? and status = 'failed'", [run_id])

    def find(self, name: str | None) -> str:
        """The id of the run that begins with `name`, or of the last one for None or `last`. Raises `NoRun`."""
        if name in (None, "last"):
            row = self._connection.execute("select max(id) from llmproxy_bench_runs").fetchone()
            if row[0] is None:
                raise NoRun("there is no run yet; make one with: llmproxy bench --target UPSTREAM/MODEL")
            return str(row[0])
        found = [
            str(row[0])
            for row in self._connection.execute(
                "select id from llmproxy_bench_runs where substr(id, 1, ?) = ?", [len(name or ""), name]
            )
        ]
        if len(found) != 1:
            what = "several runs begin" if found else "no run begins"
            raise NoRun(f"{what} with {name!r}; llmproxy bench list shows them all")
        return found[0]

    def read(self, run_id: str, *, results: bool = True) -> Run:
        """A run with all that it found, its costs not yet known. `results`: False leaves the results out."""
        (run,) = _rows(self._connection, "select * from llmproxy_bench_runs where id = ?", run_id)
        targets = [
            Target(
                name=row["name"],
                upstream=row["upstream"],
                model=row["model"],
                options=json.loads(row["options"]),
                as_recorded=bool(row["as_recorded"]),
                api=row["api"],
            )
            for row in self._of("targets", run_id, "position")
        ]
        names = [each.name for each in fields(Prompt)]
        prompts = [Prompt(**{name: row[name] for name in names}) for row in self._of("prompts", run_id, "position")]
        return Run(
            id=run["id"],
            started_utc=run["started_utc"],
            ended_utc=run["ended_utc"],
            settings=json.loads(run["settings"]),
            targets=tuple(targets),
            prompts=tuple(prompts),
            results=tuple(self.results(run_id)) if results else (),
        )

    def results(self, run_id: str) -> Iterable[Result]:
        """The results, one at a time, in the order in which they came."""
        return (_result(row) for row in self._of("results", run_id, "rowid"))

    def result(self, run_id: str, prompt: str, target: str, repeat: int) -> Result | None:
        """One result."""
        rows = _rows(
            self._connection,
            "select * from llmproxy_bench_results where run_id = ? and prompt = ? and target = ? and repeat = ?",
            *(run_id, prompt, target, repeat),
        )
        return next((_result(row) for row in rows), None)

    def keys(self, run_id: str) -> set[tuple[str, str, int]]:
        """Which results there are: prompt, target, repetition."""
        rows = self._connection.execute(
            "select prompt, target, repeat from llmproxy_bench_results where run_id = ?", [run_id]
        )
        return {(row[0], row[1], row[2]) for row in rows}

    def summaries(self) -> list[RunSummary]:
        """All runs, the newest first."""
        return [
            self._summary(row) for row in _rows(self._connection, "select * from llmproxy_bench_runs order by id desc")
        ]

    def _summary(self, row: Mapping[str, Any]) -> RunSummary:
        counts = dict(
            self._connection.execute(
                "select status, count(*) from llmproxy_bench_results where run_id = ? group by status", [row["id"]]
            ).fetchall()
        )
        prompts = self._connection.execute(
            "select count(*) from llmproxy_bench_prompts where run_id = ?", [row["id"]]
        ).fetchone()[0]
        return RunSummary(
            id=row["id"],
            started_utc=row["started_utc"],
            ended_utc=row["ended_utc"],
            prompts=prompts,
            targets=tuple(target["name"] for target in self._of("targets", row["id"], "position")),
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            skipped=counts.get("skipped", 0),
        )

    def remove(self, run_id: str) -> None:
        """Take a run out of the tables. The turns of its answers stay: they are captured traffic like any other."""
        with self.db.atomic():
            for table in bench_tables.TABLES:
                column = "id" if table == "llmproxy_bench_runs" else "run_id"
                self._connection.execute(f"delete from {table} where {column} = ?", [run_id])

    def _of(self, what: str, run_id: str, order: str) -> Iterable[dict[str, Any]]:
        return _rows(self._connection, f"select * from llmproxy_bench_{what} where run_id = ? order by {order}", run_id)


@contextmanager
def opened(config: Config) -> Iterator[Storage]:
    """The runs of a configuration's database, closed at the end."""
    storage = Storage(config.capture.database_path)
    try:
        yield storage
    finally:
        storage.close()


def _rows(db: sqlite3.Connection, sql: str, *parameters: Any) -> Iterable[dict[str, Any]]:
    cursor = db.execute(sql, parameters)
    columns = [column[0] for column in cursor.description]
    return (dict(zip(columns, row, strict=True)) for row in cursor)


def _result(row: Mapping[str, Any]) -> Result:
    values = {name: row[name] for name in _COLUMNS}
    for name in _JSON_COLUMNS:
        values[name] = json.loads(row[name] or "[]")
    values["tool_calls"] = tuple((name, arguments) for name, arguments in values["tool_calls"])
    values["checks"] = tuple(Check(**check) for check in values["checks"])
    values["verdicts"] = tuple(
        replace(Verdict(**verdict), turn_ids=tuple(verdict["turn_ids"])) for verdict in values["verdicts"]
    )
    values["notes"] = tuple(cast(Sequence[str], values["notes"]))
    return Result(**values)
