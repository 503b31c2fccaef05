"""The report in the terminal, readable at 80 columns."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmproxy.bench.report.measures import COST, DURATION, FIRST_TOKEN, PAIRWISE, Measure
from llmproxy.bench.report.statistics import Statistics, TargetStatistics
from llmproxy.bench.report.units import ANSWERS, cell, sentence
from llmproxy.bench.results import Run

HEADINGS = {
    "first_token_ms": "first token",
    "duration_ms": "answer",
    "cost_usd": f"per {ANSWERS:,}",
    "checks": "checks",
    "pairwise": "judge",
    "rubric": "rubric",
}
# Reasons of failures that are listed for a target; the page has all.
REASONS = 3


def table(run: Run) -> RenderableType:
    """What `rich` prints of a run: numbers of each target, differences from the reference, and what to know of them."""
    found = Statistics(run)
    head = Text.assemble(("Benchmark ", "bold"), (run.id, "bold"))
    head.append(f": {_count(len(run.prompts), 'prompt')}, {_count(len(run.targets), 'target')},")
    head.append(f" {_count(len(run.results), 'result')}")
    if not run.results:
        return Group(head, Text("No results."))
    parts: list[RenderableType] = [head, _numbers(found)]
    if any(target.compared for target in found.targets):
        parts += [_differences(found)]
    if reasons := [line for target in found.targets for line in _reasons(target)]:
        parts += [*reasons, Text()]
    parts += [_bullet(note, "dim") for note in found.notes]
    return Group(*parts)


def _numbers(found: Statistics) -> Table:
    measures = [m for m in (FIRST_TOKEN, DURATION, COST) if _any(found, m)] + list(found.quality)
    if COST not in measures:
        measures.insert(len(measures) - len(found.quality), COST)
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    shown.add_column("target", overflow="fold", min_width=12)
    shown.add_column("done", justify="right", no_wrap=True)
    for measure in measures:
        shown.add_column(HEADINGS[measure.key], justify="right", no_wrap=True)
    for target in found.targets:
        done = Text(f"{target.done:,}")
        for count, word in ((target.failed, "failed"), (target.skipped, "skipped")):
            if count:
                done.append(f"\n{count:,} {word}", "red" if word == "failed" else "yellow")
        shown.add_row(Text(target.target.name, "bold"), done, *(_cell(target, m) for m in measures))
    return shown


def _cell(target: TargetStatistics, measure: Measure) -> Text:
    estimate = target.measured.get(measure.key)
    if estimate is None:
        return Text("unknown" if measure is COST and target.done else "", "dim")
    value, reach = cell(estimate, measure.unit)
    return Text.assemble(value, (f"\n{reach}", "dim"))


def _differences(found: Statistics) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    shown.add_column(overflow="fold")
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column()
    reference = found.reference.name if found.reference else ""
    shown.add_row(Text(f"Against {reference}", "bold"))
    for target in found.targets:
        for at, compared in enumerate(target.compared):
            style = {True: "green", False: "red", None: "dim"}[compared.good]
            name = Text("" if at else target.target.name, "bold")
            what = HEADINGS["pairwise"] if compared.measure is PAIRWISE else compared.measure.name
            shown.add_row(name, what, Text(sentence(compared), style))
    shown.add_row()
    return shown


def _reasons(target: TargetStatistics) -> Iterator[Text]:
    for word, style, reasons in (("failed", "red", target.failures), ("skipped", "yellow", target.skips)):
        ordered = sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0]))
        for why, count in ordered[:REASONS]:
            yield Text.assemble((f"{count:,} {word}", style), f" {target.target.name}: {' '.join(why.split())}")
        if rest := sum(count for _, count in ordered[REASONS:]):
            yield Text.assemble((f"{rest:,} {word}", style), f" {target.target.name}: for other reasons")


def _bullet(note: str, style: str) -> Table:
    """A list item whose second line stands under its first."""
    item = Table.grid(padding=(0, 1, 0, 0))
    item.add_row(Text("-", style), Text(note, style))
    return item


def _any(found: Statistics, measure: Measure) -> bool:
    return any(measure.key in target.measured for target in found.targets)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
