"""`llmproxy stats --by …`."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmproxy.breakdown import break_down
from llmproxy.breakdown_table import render, sparkline
from llmproxy.cli import main
from llmproxy.config import CaptureConfig, Config, PriceConfig
from llmproxy.store.open_database import open_database


def row(number: int, **fields: Any) -> dict[str, Any]:
    base = {
        "id": f"{number:026d}",
        "turn_id": f"{number:026d}",
        "thread_id": "t1",
        "upstream": "openai",
        "api": "chat.completions",
        "method": "POST",
        "model": "m",
        "status": 200,
        "outcome": "complete",
        "started_utc": f"2026-01-0{1 + number // 4}T{number:02d}:00:00+00:00",
        "first_token_ms": 10.0 * number,
        "duration_ms": 100.0 * number,
        "input_tokens": 10,
        "output_tokens": 5,
    }
    return base | fields


ROWS = [
    row(1),
    row(2, token_details='{"prompt_tokens_details": {"cached_tokens": 4}}'),
    row(3, model="dear", client="anna", thread_id="t2", input_tokens=1000, output_tokens=1000),
    row(4, upstream="anthropic", input_tokens=None, output_tokens=None),
    row(5, status=429, turn_id=None, thread_id=None, input_tokens=None, output_tokens=None),
    row(6, outcome="upstream_cut", output_tokens=1),
    row(7, reason="replayed", upstream="replay"),
    row(8, method="GET", turn_id=None, api=None),
]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setitem(sys.modules, "genai_prices", None)  # as if it were not installed
    path = tmp_path / "logs.db"
    db = open_database(path)
    db["llmproxy_exchange_rows"].insert_all(ROWS, alter=False)  # type: ignore[union-attr]
    db["threads"].insert({"id": "t2", "name": "About cats"})  # type: ignore[union-attr]
    db.close()
    return Config(capture=CaptureConfig(database=path))


def by(config: Config, *names: Any, since: str | None = None) -> dict[str, Any]:
    return {group.label: group for group in break_down(config, names, since).groups}


def test_each_way_of_counting(config: Config) -> None:
    models = by(config, "model")
    assert [(name, group.calls, group.errors) for name, group in models.items()] == [("m", 5, 2), ("dear", 1, 0)]
    m = models["m"]
    assert (m.input_tokens, m.output_tokens, m.cached_tokens, m.unreported) == (30, 11, 4, 1)
    # Of good calls: the 1st, 2nd and 4th.
    assert (m.first_token_ms_p50, m.first_token_ms_p95, m.duration_ms_p50, m.duration_ms_p95) == (20, 40, 200, 400)
    assert list(by(config, "day")) == ["2026-01-01", "2026-01-02"]
    assert by(config, "day")["2026-01-01"].calls_over_time[:5] == [0, 1, 1, 1, 0]
    assert list(by(config, "client")) == ["-", "anna"]
    assert set(by(config, "thread")) == {"t1", "t2  About cats", "-"}
    assert set(by(config, "upstream", "model")) == {"openai / m", "openai / dear", "anthropic / m"}
    assert sum(m.calls_over_time) == 5 and m.calls_over_time[0] == 2
    assert [group.calls for group in by(config, "upstream", since="2026-01-02").values()] == [2, 1]


def test_prices_that_are_not_known_are_not_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not break_down(config, ["model"]).priced
    monkeypatch.undo()  # it is installed after all
    priced = config.model_copy(update={"prices": {"dear": PriceConfig(input=1000, output=0)}})
    breakdown = break_down(priced, ["model"])
    assert breakdown.priced
    assert [(group.cost_usd, group.unpriced) for group in breakdown.groups] == [(None, 4), (1.0, 0)]
    table = render(breakdown, as_json=False, top=10, width=200)
    assert "unknown" in table and "$1.0000" in table and "≥ $1.0000" in table
    assert "the price of 4 calls is not known" in table


def test_the_table_fits_its_terminal(config: Config) -> None:
    breakdown = break_down(config, ["thread"])
    wide = render(breakdown, as_json=False, top=10, width=200).splitlines()
    assert "tokens over time" in wide[0] and wide[-1].startswith("all 3")
    narrow = render(breakdown, as_json=False, top=2, width=100).splitlines()
    assert "over time" not in narrow[0] and max(map(len, narrow)) <= 100
    assert narrow[-1] == "and 1 more; --top 3 shows them"


def test_sparklines() -> None:
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([]) == sparkline([]) == ""
    assert sparkline([0, 0]) == "  "


def run(config: Config, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["stats", "--database", str(config.capture.database_path), *arguments])


def test_the_command(config: Config) -> None:
    told = json.loads(run(config, "--by", "upstream", "--json").stdout)
    assert (told["by"], [group["label"] for group in told["groups"]]) == (["upstream"], ["openai", "anthropic"])
    assert told["total"]["calls"] == 6
    assert run(config, "--by", "day", "--since", "2026-01-02").stdout.splitlines()[1].startswith("2026-01-02")
    assert run(config, "--by", "day", "--since", "2030-01-01").stdout.startswith("day")
    assert "is no time" in run(config, "--by", "day", "--since", "soon").stderr
    assert "go with --by" in run(config, "--since", "7d").stderr
    assert "8 exchanges" in run(config).stdout
    with sqlite3.connect(config.capture.database_path) as connection:
        connection.execute("drop view llmproxy_exchanges")
    connection.close()
    failed = run(config, "--by", "day")
    assert failed.exit_code == 1 and "cannot be counted" in failed.stderr
