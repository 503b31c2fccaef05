"""A database with turns in it, a configuration in front of the mock, and a run of `llmproxy bench` in this process."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmproxy.bench.costs import priced
from llmproxy.bench.results import Run
from llmproxy.bench.storage import opened
from llmproxy.cli import main
from llmproxy.config import Config, load
from llmproxy.prices import Prices
from llmproxy.store.open_database import open_database
from tests.bench.upstream import calls
from tests.store.conversations import Recordings

CONFIG = """
upstreams:
  up:
    app: tests.bench.upstream:create_app
    options: {{log: {home}/calls, chunk_delay: 0, first_delay: {delay}}}
  claude: {{app: "tests.bench.upstream:create_app", options: {{log: {home}/claude}}}}
prices:
  m: {{input: 1, output: 2}}
  up/dear: {{input: 1000000, output: 1000000}}
"""


class Bench:
    """A home with a database, and `llmproxy bench` over it."""

    def __init__(self, home: Path, delay: float = 0) -> None:
        self.home = home
        self.file = home / "config.yaml"
        self.file.write_text(CONFIG.format(home=home, delay=delay))
        self.database = home / "logs.db"

    def record(self, fill: Callable[[Recordings], Any]) -> Any:
        """Write turns into the database."""
        db = open_database(self.database)
        try:
            recordings = Recordings(db)
            found = fill(recordings)
            recordings.write()
            return found
        finally:
            db.close()

    @property
    def config(self) -> Config:
        return load(self.file, {"capture": {"database": self.database}})

    def arguments(self, *arguments: str) -> list[str]:
        return ["bench", *arguments, "--config", str(self.file), "--database", str(self.database)]

    def __call__(self, *arguments: str, code: int = 0, input: str | None = None) -> str:
        done = CliRunner().invoke(main, self.arguments(*arguments), input=input)
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    def run(self, name: str | None = None) -> Run:
        """The last run as it is in the database."""
        with opened(self.config) as storage:
            return priced(storage.read(storage.find(name)), Prices(self.config))

    def calls(self) -> list[dict[str, Any]]:
        return calls(self.home / "calls")

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return Bench(tmp_path)
