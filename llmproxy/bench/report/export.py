"""A run for other programs: everything as JSON, or one row for each result as CSV."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from llmproxy.bench.report.bootstrap import LEVEL
from llmproxy.bench.report.measures import MEASURES, judged, passed_share
from llmproxy.bench.report.statistics import Statistics, TargetStatistics
from llmproxy.bench.results import Result, Run

COLUMNS = (
    "run", "prompt", "prompt_text", "prompt_messages", "target", "upstream", "model", "as_recorded", "repeat", "status",
    "error", "turn_id", "http_status", "attempts", "started_utc", "first_byte_ms", "first_token_ms", "duration_ms",
    "tokens_per_second", "input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "cost_usd",
    "finish_reason", "checks_passed", "judged_pairwise", "judged_rubric", "checks", "tool_calls", "text",
)  # fmt: skip


def as_json(run: Run) -> str:
    """The run's values by their own names, and under ``statistics`` what reports say of each target.

    What is unknown is null. An interval of null says that there were too few prompts for one.
    """
    values = json.loads(TypeAdapter(Run).dump_json(run))
    found = Statistics(run)
    statistics = {
        "level": LEVEL,
        "reference": found.reference.name if found.reference else None,
        "notes": list(found.notes),
        "targets": [_target(target) for target in found.targets],
    }
    return json.dumps({**values, "statistics": statistics}, ensure_ascii=False, indent=1) + "\n"


def as_csv(run: Run) -> str:
    """A row for each result, in the run's order, with what its prompt and target are.

    Unknown is empty. `checks` is JSON, a name to true, false or null; `tool_calls` is a JSON list of name and
    arguments. Texts are as they came: import the file into a spreadsheet as text, or one that begins with ``=`` would
    be taken for a formula.
    """
    prompts = {prompt.turn_id: prompt for prompt in run.prompts}
    targets = {target.name: target for target in run.targets}
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, COLUMNS)
    writer.writeheader()
    for result in run.results:
        row = _result(result) | {"run": run.id}
        if prompt := prompts.get(result.prompt):
            row |= {"prompt_text": prompt.text, "prompt_messages": prompt.messages}
        if target := targets.get(result.target):
            row |= {"upstream": target.upstream, "model": target.model, "as_recorded": int(target.as_recorded)}
        writer.writerow(row)
    return rows.getvalue()


def _target(found: TargetStatistics) -> dict[str, Any]:
    return {
        "name": found.target.name,
        "results": len(found.results),
        "done": found.done,
        "failed": found.failed,
        "skipped": found.skipped,
        "retried": found.retried,
        "cut": found.cut,
        "failures": dict(found.failures),
        "skips": dict(found.skips),
        "known_cost_usd": found.known_cost_usd,
        "unknown_costs": found.unknown_costs,
        "measures": {
            measure.key: {"centre": measure.centre, **asdict(found.measured[measure.key])}
            for measure in MEASURES
            if measure.key in found.measured
        },
        "differences": {
            compared.measure.key: {"verdict": compared.verdict, **asdict(compared.estimate)}
            for compared in found.compared
        },
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        **{name: getattr(result, name) for name in COLUMNS if hasattr(result, name)},
        "checks_passed": passed_share(result),
        "judged_pairwise": judged(result, "pairwise"),
        "judged_rubric": judged(result, "rubric"),
        "checks": json.dumps({check.name: check.passed for check in result.checks}, ensure_ascii=False),
        "tool_calls": json.dumps(result.tool_calls, ensure_ascii=False),
    }
