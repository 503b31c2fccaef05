"""What is measured of an answer: where its number is found, how numbers are brought to one, which way is better."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmproxy.bench.report.bootstrap import Centre
from llmproxy.bench.results import Result, Verdict

Unit = Literal["ms", "tokens/s", "tokens", "usd", "share", "score"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of an answer. `less` and `more` say of a target what less or more of it than the baseline means.

    `better` is "less", "more", or None where neither is. `of` gives None where an answer has no such number.
    """

    key: str
    name: str
    unit: Unit
    centre: Centre
    better: Literal["less", "more"] | None
    less: str
    more: str
    of: Callable[[Result], float | None]


def passed_share(result: Result) -> float | None:
    """The share of checks passed, of those that could be made."""
    made = [check.passed for check in result.checks if check.passed is not None]
    return sum(made) / len(made) if made else None


def judged(result: Result, kind: Literal["pairwise", "rubric"]) -> float | None:
    """The mean score of a result's verdicts of one kind."""
    scores = [score for verdict in result.verdicts if (score := _score(verdict, kind)) is not None]
    return math.fsum(scores) / len(scores) if scores else None


def _score(verdict: Verdict, kind: str) -> float | None:
    return verdict.score if verdict.kind == kind else None


FIRST_TOKEN = Measure(
    "first_token_ms", "first token", "ms", "median", "less", "sooner", "later", lambda r: r.first_token_ms
)
DURATION = Measure("duration_ms", "whole answer", "ms", "median", "less", "faster", "slower", lambda r: r.duration_ms)
SPEED = Measure(
    "tokens_per_second", "streaming", "tokens/s", "median", "more", "slower", "faster",
    lambda r: r.tokens_per_second,
)  # fmt: skip
INPUT = Measure("input_tokens", "input", "tokens", "median", None, "less input", "more input", lambda r: r.input_tokens)
CACHED = Measure(
    "cached_tokens", "of it cached", "tokens", "median", None, "less cached", "more cached", lambda r: r.cached_tokens
)
OUTPUT = Measure("output_tokens", "output", "tokens", "median", None, "shorter", "longer", lambda r: r.output_tokens)
REASONING = Measure(
    "reasoning_tokens", "of it reasoning", "tokens", "median", None, "less reasoning", "more reasoning",
    lambda r: r.reasoning_tokens,
)  # fmt: skip
# What a thousand answers cost is a thousand times the mean, not the median.
COST = Measure("cost_usd", "cost", "usd", "mean", "less", "cheaper", "dearer", lambda r: r.cost_usd)
CHECKS = Measure("checks", "checks passed", "share", "mean", "more", "worse", "better", passed_share)
PAIRWISE = Measure(
    "pairwise", "judged against the baseline", "score", "mean", "more", "worse", "better",
    lambda r: judged(r, "pairwise"),
)  # fmt: skip
RUBRIC = Measure(
    "rubric", "judged by a rubric", "score", "mean", "more", "worse", "better", lambda r: judged(r, "rubric")
)

MEASURES = (FIRST_TOKEN, DURATION, SPEED, INPUT, CACHED, OUTPUT, REASONING, COST, CHECKS, PAIRWISE, RUBRIC)
QUALITY = (PAIRWISE, RUBRIC, CHECKS)
# Token counts are what was asked and said, not what one target does better than another; pairwise is a difference.
COMPARED = (FIRST_TOKEN, DURATION, SPEED, OUTPUT, COST, CHECKS, RUBRIC)
