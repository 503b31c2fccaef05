"""The table in the terminal, and the exports."""

import csv
import io
import json

from rich.console import Console

from llmproxy.bench.report.export import COLUMNS, as_csv, as_json
from llmproxy.bench.report.statistics import Statistics
from llmproxy.bench.report.terminal import table
from llmproxy.bench.results import Prompt, Result, Run
from tests.bench.sample import TARGETS, sample_run


def printed(run: Run, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table(run))
    return console.export_text()


def test_eighty_columns_are_enough() -> None:
    run = sample_run()
    text = printed(run)
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text  # nothing was cut
    for says in ("2 failed", "4 skipped", "unknown", "no difference seen", "worse by", "HTTP 429: Rate limit"):
        assert says in text
    assert all(target.name in text for target in run.targets)


def test_square_brackets_are_no_markup() -> None:
    error = "bad [bold]header[/bold] [/]"
    run = Run(
        "r", "", None, {}, TARGETS[:1], (Prompt("p", "m", "q", 1),), (Result("p", "as recorded", 0, "failed", error),)
    )
    assert error in printed(run)


def test_runs_that_hold_little() -> None:
    assert "No results." in printed(Run("r", "", None, {}, (), (), ()))
    only = Run(
        "r", "", None, {}, TARGETS, (Prompt("p", "m", "q", 1),), (Result("p", TARGETS[1].name, 0, "skipped", "why"),)
    )
    assert "1 skipped deepseek/deepseek-chat: why" in printed(only)


def test_json_is_the_run_and_its_statistics() -> None:
    run = sample_run(prompts=10)
    values = json.loads(as_json(run))
    assert [r["text"] for r in values["results"]] == [r.text for r in run.results]
    assert [t["name"] for t in values["targets"]] == [t.name for t in run.targets]
    local = values["statistics"]["targets"][3]
    assert local["known_cost_usd"] is None and "cost_usd" not in local["measures"]
    found = Statistics(run).targets[1]
    said = values["statistics"]["targets"][1]
    assert said["measures"]["duration_ms"]["low"] == found.measured["duration_ms"].low
    assert said["differences"]["duration_ms"]["verdict"] == "slower"


def test_csv_has_a_row_for_each_result() -> None:
    run = sample_run(prompts=20)
    rows = list(csv.DictReader(io.StringIO(as_csv(run), newline="")))
    assert len(rows) == len(run.results) and list(rows[0]) == list(COLUMNS)
    for row, result in zip(rows, run.results, strict=True):
        assert row["text"] == result.text and row["status"] == result.status
        assert row["cost_usd"] == ("" if result.cost_usd is None else str(result.cost_usd))
        assert [tuple(call) for call in json.loads(row["tool_calls"])] == list(result.tool_calls)
    assert rows[1]["model"] == "deepseek-chat" and rows[1]["prompt_text"].startswith("I have three days")


def test_nothing_at_all_is_exported_too() -> None:
    empty = Run("r", "", None, {}, (), (), ())
    assert json.loads(as_json(empty))["statistics"]["reference"] is None
    assert as_csv(empty).strip() == ",".join(COLUMNS)
