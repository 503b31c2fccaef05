"""What a run's results say of each target, and of each target against the baseline over the same prompts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from llmproxy.bench.report.bootstrap import FEWEST, Estimate, difference, estimate
from llmproxy.bench.report.measures import COMPARED, COST, MEASURES, PAIRWISE, QUALITY, Measure
from llmproxy.bench.results import Result, Run, Target

# Intervals of so few prompts are shown with a warning.
FEW = 20
# A judge's score of an answer that is as good as the baseline's.
EVEN = 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """A target against the reference, over the prompts that both answered. The estimate is the target's minus its."""

    measure: Measure
    estimate: Estimate

    @property
    def verdict(self) -> str:
        """``no difference seen``, ``too few prompts``, or the measure's word for the direction (``faster``)."""
        if self.estimate.low is None:
            return "too few prompts"
        if self.estimate.holds_zero:
            return "no difference seen"
        return self.measure.less if self.estimate.value < 0 else self.measure.more

    @property
    def good(self) -> bool | None:
        """Whether the difference is to the better; None where none was seen, or neither way is better."""
        if self.estimate.holds_zero or self.measure.better is None:
            return None
        return (self.estimate.value < 0) == (self.measure.better == "less")


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """One target's numbers. `measured` has no entry for what no answer of it has; failed calls have no numbers."""

    target: Target
    results: tuple[Result, ...]
    measured: Mapping[str, Estimate]
    compared: tuple[Comparison, ...]
    failures: Mapping[str, int]
    skips: Mapping[str, int]

    @property
    def done(self) -> int:
        return sum(result.status == "done" for result in self.results)

    @property
    def answered(self) -> int:
        """Prompts with at least one answer."""
        return len({result.prompt for result in self.results if result.status == "done"})

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def skipped(self) -> int:
        return sum(self.skips.values())

    @property
    def retried(self) -> int:
        """Calls that needed more than one attempt."""
        return sum(result.attempts > 1 for result in self.results)

    @property
    def cut(self) -> int:
        """Answers that ended because a limit of tokens was reached."""
        return sum(result.finish_reason in ("length", "max_tokens") for result in self.results)

    @property
    def known_cost_usd(self) -> float | None:
        """What the calls of known price cost together; None where no price is known."""
        costs = [result.cost_usd for result in self.results if result.cost_usd is not None]
        return sum(sorted(costs)) if costs else None

    @property
    def unknown_costs(self) -> int:
        """Answers without a known price."""
        return sum(result.status == "done" and result.cost_usd is None for result in self.results)


class Statistics:
    """Everything that reports say in numbers of a run. The order of its results makes no difference."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._by_target: dict[str, list[Result]] = defaultdict(list)
        for result in sorted(run.results, key=lambda r: (r.target, r.prompt, r.repeat, r.turn_id or "")):
            self._by_target[result.target].append(result)

    @cached_property
    def reference(self) -> Target | None:
        """What targets are compared with: the recorded answers where the run has them, else the first target."""
        recorded = [target for target in self.run.targets if target.as_recorded]
        return next(iter(recorded or self.run.targets), None)

    @cached_property
    def targets(self) -> tuple[TargetStatistics, ...]:
        """In the run's order."""
        return tuple(self._statistics(target) for target in self.run.targets)

    @cached_property
    def quality(self) -> tuple[Measure, ...]:
        """The measures of quality that any answer has, the most telling first."""
        return tuple(m for m in QUALITY if any(m.key in target.measured for target in self.targets))

    @cached_property
    def repeats(self) -> int:
        return max((result.repeat for result in self.run.results), default=-1) + 1

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before trusting the numbers."""
        return tuple(_notes(self))

    def of(self, name: str) -> TargetStatistics:
        """The statistics of a target by its name. Raises KeyError."""
        for target in self.targets:
            if target.target.name == name:
                return target
        raise KeyError(name)

    def _statistics(self, target: Target) -> TargetStatistics:
        results = self._by_target[target.name]
        measured = {m.key: found for m in MEASURES if (found := _estimate(results, m)) is not None}
        compared: list[Comparison] = []
        if self.reference is not None and self.reference.name != target.name:
            base = self._by_target[self.reference.name]
            for measure in COMPARED:
                before, after = _groups(base, measure), _groups(results, measure)
                if pairs := [(before[prompt], after[prompt]) for prompt in before.keys() & after.keys()]:
                    compared.append(Comparison(measure, difference(pairs, measure.centre)))
            if self.reference.as_recorded and PAIRWISE.key in measured:
                compared.append(Comparison(PAIRWISE, _less(measured[PAIRWISE.key], EVEN)))
        return TargetStatistics(
            target,
            tuple(results),
            measured,
            tuple(compared),
            Counter(result.error or "no reason given" for result in results if result.status == "failed"),
            Counter(result.error or "no reason given" for result in results if result.status == "skipped"),
        )


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, quality), those to which none is cheaper and as good, or as cheap and better. Cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or quality > best[-1][1]:
            best.append((cost, quality))
    return best


def _groups(results: Sequence[Result], measure: Measure) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.status == "done" and (value := measure.of(result)) is not None:
            groups[result.prompt].append(float(value))
    return groups


def _estimate(results: Sequence[Result], measure: Measure) -> Estimate | None:
    groups = _groups(results, measure)
    if not groups:
        return None
    values = sum(map(len, groups.values()))
    missing = sum(result.status == "done" for result in results) - values
    return estimate(list(groups.values()), measure.centre, share=measure.unit == "share", missing=missing)


def _less(found: Estimate, by: float) -> Estimate:
    low, high = (None if end is None else end - by for end in (found.low, found.high))
    return replace(found, value=found.value - by, low=low, high=high)


def _notes(found: Statistics) -> list[str]:
    notes = []
    answered = {target.target.name: target.answered for target in found.targets}
    few = [name for name, prompts in answered.items() if 0 < prompts < FEWEST]
    if few:
        notes.append(f"No intervals for {_and(few)}: fewer than {FEWEST} prompts were answered.")
    wide = [name for name, prompts in answered.items() if FEWEST <= prompts < FEW]
    if wide:
        notes.append(f"Few prompts for {_and(wide)}: intervals from fewer than {FEW} prompts tend to be too narrow.")
    if found.repeats > 1:
        notes.append(
            "Repeats of one prompt are not independent: each prompt counts once, by the median (mean for cost and"
            " quality) of its repeats, and intervals resample prompts, then repeats."
        )
    for target in found.targets:
        name = target.target.name
        if target.failed or target.skipped:
            parts = [f"{n:,} {word}" for n, word in ((target.failed, "failed"), (target.skipped, "skipped")) if n]
            notes.append(f"{name}: {' and '.join(parts)}; such calls have no part in times, cost and quality.")
        if target.unknown_costs and COST.key in target.measured:
            notes.append(
                f"{name}: the price of {target.unknown_costs:,} answers is unknown; its cost is of the others."
            )
    unpriced = [t.target.name for t in found.targets if t.done and COST.key not in t.measured]
    if unpriced:
        notes.append(f"The price of {_and(unpriced)} is unknown, which does not mean zero.")
    recorded = [target for target in found.targets if target.target.as_recorded and target.done]
    if recorded and any("duration_ms" in target.measured for target in recorded):
        notes.append("Recorded answers were timed when they were recorded, on that day's network and load.")
    if any(measure is PAIRWISE for measure in found.quality):
        notes.append("Judged against the baseline: 0.5 is as good as it, 1 always better, 0 always worse.")
    intervals = sum(c.estimate.low is not None for target in found.targets for c in target.compared)
    if intervals >= 10:
        notes.append(
            f"{intervals} differences are tested at 95% each: about {round(intervals / 20)} of them would look real by"
            " chance if none were."
        )
    if found.run.ended_utc is None:
        notes.append("The run has not ended: it goes on, or was broken off.")
    return notes


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
