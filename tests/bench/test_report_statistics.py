"""The report's statistics: known values, and what must hold of any results."""

import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmproxy.bench.report.bootstrap import FEWEST, Centre, Estimate, difference, estimate
from llmproxy.bench.report.measures import CHECKS, COST, DURATION, PAIRWISE, Measure
from llmproxy.bench.report.statistics import Comparison, Statistics, frontier
from llmproxy.bench.report.units import dollars, interval, number, sentence
from llmproxy.bench.results import Check, Prompt, Result, Run, Target, Verdict
from tests.bench.sample import RECORDED, sample_run

FAST, SLOW = Target("fast", "up", "f"), Target("slow", "up", "s")
VALUES = st.floats(0, 1e7, allow_nan=False)
CENTRES: st.SearchStrategy[Centre] = st.sampled_from(["median", "mean"])
GROUPS = st.lists(st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=25)


def run_of(*results: Result, targets: tuple[Target, ...] = (FAST, SLOW)) -> Run:
    prompts = tuple(Prompt(turn, "m", f"question {turn}", 1) for turn in sorted({r.prompt for r in results}))
    return Run("r1", "2025-01-01T00:00:00Z", "2025-01-01T00:01:00Z", {}, targets, prompts, results)


def took(prompt: int, target: Target, ms: float, repeat: int = 0) -> Result:
    return Result(f"p{prompt:03}", target.name, repeat, "done", duration_ms=ms)


def test_the_interval_is_that_of_resampling_by_brute_force() -> None:
    dice = random.Random(3)
    for count in (15, 24):
        values = [dice.lognormvariate(0, 1) for _ in range(count)]
        centres: list[tuple[Centre, Callable[[list[float]], float]]]
        centres = [("median", statistics.median), ("mean", statistics.fmean)]
        for centre, of in centres:
            found = estimate([[value] for value in values], centre)
            drawn = sorted(of(dice.choices(values, k=count)) for _ in range(4000))
            assert found.value == pytest.approx(of(values))
            # A few ranks to either side: a median jumps from one of the values to the next.
            assert found.low is not None and drawn[60] <= found.low <= drawn[140]
            assert found.high is not None and drawn[3860] <= found.high <= drawn[3940]


def test_a_known_interval_of_a_median() -> None:
    # With 21 different values the resampled median's 2.5% and 97.5% points are the 6th and the 16th value, or next to
    # them: the binomial interval for a median of 21 is the 6th to the 16th.
    found = estimate([[float(value)] for value in range(1, 22)], "median")
    assert (found.value, found.prompts, found.values) == (11, 21, 21)
    assert found.low in (6, 7) and found.high in (15, 16)


def test_repeats_do_not_make_the_interval_narrower_as_prompts_would() -> None:
    dice = random.Random(5)
    prompts = [dice.gauss(100, 20) for _ in range(12)]
    once = estimate([[value] for value in prompts], "mean")
    repeated = estimate([[value] * 10 for value in prompts], "mean")
    alone = estimate([[value] for value in prompts for _ in range(10)], "mean")
    assert repeated.value == pytest.approx(once.value) and repeated.values == 120

    def width(found: Estimate) -> float:
        assert found.low is not None and found.high is not None
        return found.high - found.low

    assert width(repeated) == pytest.approx(width(once), rel=0.1)
    assert width(alone) < width(repeated) / 2


def test_a_prompt_with_more_repeats_does_not_count_more() -> None:
    assert estimate([[1.0], [3.0, 3.0, 3.0, 3.0]], "mean").value == 2


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_certainty_from_a_few_that_are_all_alike(value: float) -> None:
    found = estimate([[value]] * 10, "mean", share=True)
    # Clopper and Pearson's table: 10 of 10 is 69% to 100%.
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(0.3085, abs=0.0001)
    assert value in (found.low, found.high)


@settings(max_examples=60)
@given(GROUPS, CENTRES, st.randoms(use_true_random=False))
@example([[1.0]] * 2 + [[2.9167401426818064e-174]] * 5, "mean", random.Random(0))
def test_any_interval_holds_its_estimate_and_no_order_matters(
    groups: list[list[float]], centre: Centre, dice: random.Random
) -> None:
    found = estimate(groups, centre)
    assert (found.low is None) == (len(groups) < FEWEST)
    if found.low is not None and found.high is not None:
        flat = [value for group in groups for value in group]
        assert min(flat) <= found.low <= found.value <= found.high <= max(flat)
    shuffled = [dice.sample(group, len(group)) for group in dice.sample(groups, len(groups))]
    assert estimate(shuffled, centre) == found


@settings(max_examples=40)
@given(st.lists(st.tuples(GROUPS.map(lambda g: g[0]), GROUPS.map(lambda g: g[0])), min_size=FEWEST, max_size=20))
def test_differences_hold_their_estimate_and_are_none_of_a_thing_with_itself(
    pairs: list[tuple[list[float], list[float]]],
) -> None:
    found = difference(pairs, "median")
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
    with_itself = difference([(first, first) for first, _ in pairs], "median")
    assert with_itself.value == 0 and with_itself.holds_zero


def test_results_in_another_order_say_the_same() -> None:
    run = sample_run(prompts=12)
    shuffled = list(run.results)
    random.Random(1).shuffle(shuffled)
    one, other = Statistics(run), Statistics(replace(run, results=tuple(shuffled)))
    assert [t.measured for t in one.targets] == [t.measured for t in other.targets]
    assert [t.compared for t in one.targets] == [t.compared for t in other.targets]
    assert one.notes == other.notes


def test_differences_are_of_the_same_prompts() -> None:
    # Slow answers only the prompts that are quick for all: alone it looks faster, over the same prompts it is slower.
    fast = [took(at, FAST, 100.0 if at < 10 else 9000) for at in range(30)]
    slow = [took(at, SLOW, 300.0 + at) for at in range(10)]
    found = Statistics(run_of(*fast, *slow))
    assert found.of("slow").measured["duration_ms"].value < found.of("fast").measured["duration_ms"].value
    (compared,) = found.of("slow").compared
    assert compared.estimate.prompts == 10 and compared.verdict == "slower" and compared.good is False
    assert sentence(compared).startswith("slower by 204 ms (20")
    assert not found.of("fast").compared


def test_no_difference_seen_and_too_few_prompts() -> None:
    dice = random.Random(2)
    same = [took(at, target, dice.gauss(500, 50)) for at in range(30) for target in (FAST, SLOW)]
    (compared,) = Statistics(run_of(*same)).of("slow").compared
    assert compared.verdict == "no difference seen" and compared.good is None
    assert sentence(compared).startswith("no difference seen (\N{MINUS SIGN}")
    found = Statistics(run_of(*same[:10]))
    (compared,) = found.of("slow").compared
    assert compared.verdict == sentence(compared).removesuffix(" to tell") == "too few prompts"
    assert any("No intervals for fast and slow" in note for note in found.notes)
    assert interval(found.of("fast").measured["duration_ms"], "ms") == ""


def test_failed_and_skipped_calls_have_no_numbers_and_unknown_is_not_zero() -> None:
    results = [
        Result("p1", "fast", 0, "done", duration_ms=10, cost_usd=0.5, attempts=2, finish_reason="length"),
        Result("p2", "fast", 0, "done", duration_ms=20),
        Result("p3", "fast", 0, "failed", "HTTP 500", duration_ms=99999, cost_usd=7),
        Result("p1", "slow", 0, "done", duration_ms=10),
        Result("p2", "slow", 0, "skipped", "has an image"),
    ]
    found = Statistics(run_of(*results))
    fast, slow = found.targets
    assert (fast.done, fast.failed, fast.skipped, fast.retried, fast.cut, fast.answered) == (2, 1, 0, 1, 1, 2)
    assert fast.measured["duration_ms"].value == 15
    assert (fast.measured["cost_usd"].value, fast.measured["cost_usd"].missing, fast.unknown_costs) == (0.5, 1, 1)
    assert "cost_usd" not in slow.measured and slow.known_cost_usd is None
    assert dict(slow.skips) == {"has an image": 1} and dict(fast.failures) == {"HTTP 500": 1}
    assert "The price of slow is unknown, which does not mean zero." in found.notes
    assert any("price of 1 answers is unknown" in note for note in found.notes)


def test_quality_is_of_checks_that_could_be_made_and_verdicts_that_were_given() -> None:
    checks = (Check("a", True), Check("b", False), Check("c", None))
    verdicts = (Verdict("j", "pairwise", 1.0), Verdict("j", "pairwise", None), Verdict("k", "rubric", 0.2))
    found = Statistics(run_of(replace(took(1, FAST, 1), checks=checks, verdicts=verdicts)))
    measured = found.of("fast").measured
    assert [measured[key].value for key in ("checks", "pairwise", "rubric")] == [0.5, 1.0, 0.2]
    assert found.quality[0] is PAIRWISE and CHECKS in found.quality


def test_the_baseline_is_the_reference_wherever_it_stands() -> None:
    run = sample_run(prompts=8)
    found = Statistics(replace(run, targets=run.targets[::-1]))
    assert found.reference == RECORDED
    reference = Statistics(run_of(took(1, SLOW, 1))).reference
    assert reference is FAST


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([1.0] * 9 + [0.5] * 3, "better by 0.38 (0.25\N{EN DASH}0.50)"),
        ([1.0, 0.0] * 6, "no difference seen (\N{MINUS SIGN}0.25 to +0.25)"),
        ([0.0] * 3, "too few prompts to tell"),
    ],
)
def test_a_judge_s_verdicts_are_against_even(scores: list[float], text: str) -> None:
    results = [replace(took(at, FAST, 1), verdicts=(Verdict("j", "pairwise", s),)) for at, s in enumerate(scores)]
    found = Statistics(run_of(*results, targets=(RECORDED, FAST)))
    (compared,) = found.of("fast").compared
    assert compared.measure is PAIRWISE and sentence(compared) == text
    assert compared.good == {"b": True, "n": None, "t": None}[text[0]]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    best = frontier(points)
    assert best == sorted(best) and [q for _, q in best] == sorted({q for _, q in best})
    for cost, quality in points:
        assert any(c <= cost and q >= quality for c, q in best)
    for point in best:
        assert not any(c <= point[0] and q >= point[1] and (c, q) != point for c, q in points)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0.42, "0.4 ms"), (42, "42 ms"), (999.4, "999 ms"), (1240, "1.24 s"), (12_400, "12.4 s"), (125_000, "2 min 05 s"),
     (11_400_000, "3 h 10 min")],
)  # fmt: skip
def test_times(ms: float, text: str) -> None:
    assert number(ms, "ms") == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0"), (0.00031, "$0.00031"), (0.0999, "$0.10"), (0.5, "$0.50"), (12.3, "$12.30"), (4321.5, "$4,322")],
)
def test_dollars(usd: float, text: str) -> None:
    assert dollars(usd) == text


@pytest.mark.parametrize(
    ("measure", "before", "after", "text"),
    [
        (COST, 0.002, 0.0005, "cheaper by $1.50 ($1.50\N{EN DASH}$1.50)"),
        (CHECKS, 0.5, 0.75, "better by 25 points (25\N{EN DASH}25 points)"),
        (DURATION, 1000, 3500, "slower by 2.50 s (2.50\N{EN DASH}2.50 s)"),
    ],
)
def test_sentences(measure: Measure, before: float, after: float, text: str) -> None:
    assert sentence(Comparison(measure, difference([([before], [after])] * 6, measure.centre))) == text
