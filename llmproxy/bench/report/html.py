"""The report as one page: no network, no other file, a person's eyes."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llmproxy.bench.report import charts, svg
from llmproxy.bench.report.conversations import conversations
from llmproxy.bench.report.measures import (
    COST,
    DURATION,
    FIRST_TOKEN,
    MEASURES,
    OUTPUT,
    PAIRWISE,
    QUALITY,
    SPEED,
    Measure,
)
from llmproxy.bench.report.statistics import EVEN, Statistics, TargetStatistics
from llmproxy.bench.report.units import ANSWERS, dollars, duration, heading, interval, number, sentence
from llmproxy.bench.results import Result, Run

# Prompts whose answers the page holds; JSON and CSV hold all.
PROMPTS = 300
# Bytes of settings' JSON that are shown.
SETTINGS = 20_000

# Answers may hold what HTML may not, and what no encoding can write: the pictures of Unicode stand for it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a target's card, with its interval and what it is against the reference."""

    name: str
    value: str
    reach: str = ""
    says: str = ""
    state: str = "none"


def page(run: Run, *, prompts: int = PROMPTS) -> str:
    """The whole report as HTML, for a file or a browser. At most `prompts` prompts are shown with their answers."""
    found = Statistics(run)
    templates = files(__package__) / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    shown = list(conversations(run, found.reference, prompts))
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "dollars": dollars, "duration": duration, "number": number, "when": _when,
        "options": _json,
    }  # fmt: skip
    text = environment.get_template("page.html").render(
        run=run,
        found=found,
        answers=ANSWERS,
        took=_took(run),
        style=Markup((templates / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # Nothing but this very script may run: an answer's could not, were it to get past the escaping.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        cards=[(target, list(_figures(found, target))) for target in found.targets],
        colour=svg.colour,
        shapes=svg.SHAPES,
        distributions=_drawn(charts.distribution, found, (FIRST_TOKEN, DURATION, SPEED)),
        frontiers=_drawn(charts.quality_cost, found, found.quality),
        differences=_drawn(charts.differences, found, (DURATION, FIRST_TOKEN, COST, *reversed(QUALITY), OUTPUT)),
        tokens=charts.tokens(found),
        measures=[m for m in MEASURES if any(m.key in target.measured for target in found.targets)],
        cost=COST,
        heading=heading,
        interval=interval,
        conversations=shown,
        facts=_facts,
        settings=_json(run.settings),
    )
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n"))


def _drawn(
    draw: Callable[[Statistics, Measure], Markup | None], found: Statistics, measures: Sequence[Measure]
) -> list[tuple[Measure, Markup]]:
    return [(measure, chart) for measure in measures if (chart := draw(found, measure)) is not None]


def _figures(found: Statistics, target: TargetStatistics) -> Iterator[Figure]:
    compared = {c.measure.key: c for c in target.compared}
    for measure in (*found.quality[:1], DURATION, COST):
        estimate = target.measured.get(measure.key)
        name = heading(measure)
        if estimate is None:
            if measure is PAIRWISE and target.target.as_recorded and target.done:
                yield Figure(name, number(EVEN, "score"), says="is the baseline")
            else:
                yield Figure(name, "unknown" if measure is COST and target.done else "none")
            continue
        against = compared.get(measure.key)
        says, state = "", "none"
        if against is not None:
            says, state = sentence(against), {True: "good", False: "bad", None: "none"}[against.good]
        yield Figure(name, number(estimate.value, measure.unit), interval(estimate, measure.unit), says, state)


def _facts(result: Result) -> list[str]:
    """An answer's numbers in short, unknown ones left out but the price."""
    facts = [number(result.duration_ms, "ms")] if result.duration_ms is not None else []
    if result.output_tokens is not None:
        facts.append(f"{result.output_tokens:,} tokens")
    if result.status == "done":
        facts.append(dollars(result.cost_usd) if result.cost_usd is not None else "price unknown")
    if result.finish_reason not in (None, "stop", "end_turn", "tool_calls", "tool_use"):
        facts.append(f"ended by {result.finish_reason}")
    if result.attempts > 1:
        facts.append(f"{result.attempts} attempts")
    return facts


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(dict(values), indent=2, ensure_ascii=False, default=str)[:SETTINGS]


def _when(utc: str) -> str:
    """``3 June 2025, 09:14 UTC``; what is no time as it came."""
    try:
        at = datetime.fromisoformat(utc)
    except ValueError:
        return utc
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def _took(run: Run) -> str | None:
    try:
        lasted = datetime.fromisoformat(run.ended_utc or "") - datetime.fromisoformat(run.started_utc)
    except (TypeError, ValueError):
        return None
    return duration(lasted.total_seconds() * 1000)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code > 0x7F:
        return "\N{REPLACEMENT CHARACTER}"
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else chr(0x2400 + code)
