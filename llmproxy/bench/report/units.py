"""Numbers as people read them: few digits, with their unit, and both ends of an interval in the same one."""

import math
from typing import Literal

from llmproxy.bench.report.bootstrap import Estimate
from llmproxy.bench.report.measures import Measure, Unit
from llmproxy.bench.report.statistics import Comparison

MINUS = "\N{MINUS SIGN}"
TO = "\N{EN DASH}"
# Prices are told for a thousand answers: one costs too little to be read.
ANSWERS = 1000


def number(value: float, unit: Unit) -> str:
    """``1.24 s``, ``63 tok/s``, ``$0.42`` (for a thousand answers), ``84%``, ``0.62``."""
    text, suffix = _parts(value, unit, abs(value))
    return text + suffix


def cell(estimate: Estimate, unit: Unit) -> tuple[str, str]:
    """A number and, where there is one, its interval in the same unit, which the number alone names: for tables."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, unit), ""
    largest = max(abs(estimate.low), abs(estimate.high))
    text, suffix = _parts(estimate.value, unit, largest)
    low, high = (_parts(end, unit, largest)[0].removeprefix("$") for end in (estimate.low, estimate.high))
    return text + suffix, f"{low}{TO}{high}"


def interval(estimate: Estimate, unit: Unit) -> str:
    """Both ends with their unit once, as in ``1.10 to 1.41 s`` with a dash; empty where there is no interval."""
    return "" if estimate.low is None or estimate.high is None else _span(estimate.low, estimate.high, unit)


def sentence(comparison: Comparison) -> str:
    """What a comparison says: ``faster by 310 ms (220 to 400 ms)`` with a dash, ``no difference seen (...)``, or
    ``too few prompts to tell``. Differences of shares are in points, or 4% less would be read as a ratio.
    """
    found = comparison.estimate
    unit: Unit | Literal["points", "more tokens"] = comparison.measure.unit
    unit = "points" if unit == "share" else "more tokens" if unit == "tokens" else unit
    if found.low is None or found.high is None:
        return "too few prompts to tell"
    if found.holds_zero:
        return f"no difference seen ({_span(found.low, found.high, unit)})"
    low, high = sorted((abs(found.low), abs(found.high)))
    text, suffix = _parts(abs(found.value), unit, abs(found.value))
    return f"{comparison.verdict} by {text}{suffix} ({_span(low, high, unit)})"


def tick(value: float, unit: Unit) -> str:
    """A number on an axis, as short as it goes: ``2 s``, ``$0.5``."""
    if unit == "ms":
        return (
            f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s" if value < 120_000 else f"{value / 60_000:g} min"
        )
    if unit == "usd":
        return f"${value * ANSWERS:,.6g}"
    return f"{value * 100:.3g}%" if unit == "share" else f"{value:,.6g}"


def difference_tick(value: float, unit: Unit) -> str:
    """The same with its sign; shares in points."""
    text = f"{abs(value) * 100:.3g}" if unit == "share" else tick(abs(value), unit)
    return f"{MINUS}{text}" if value < 0 else f"+{text}" if value > 0 else "0"


def heading(measure: Measure) -> str:
    """The measure's name, with what the number is of where its unit does not say so."""
    return f"{measure.name}, {ANSWERS:,} answers" if measure.unit == "usd" else measure.name


def duration(ms: float) -> str:
    """``840 ms``, ``1.24 s``, ``2 min 05 s``, ``3 h 10 min``."""
    return number(ms, "ms")


def dollars(usd: float) -> str:
    """``$12.30``, ``$0.42``, ``$0.0031``."""
    if usd == 0:
        return "$0"
    sign = MINUS if usd < 0 else ""
    usd = abs(usd)
    return f"{sign}${usd:,.0f}" if usd >= 1000 else f"{sign}${usd:.2f}" if usd >= 0.0995 else f"{sign}${_plain(usd)}"


def _plain(value: float) -> str:
    """Two significant digits, never in powers of ten."""
    return f"{value:.{1 - math.floor(math.log10(value))}f}"


def _span(low: float, high: float, unit: str) -> str:
    largest = max(abs(low), abs(high))
    (first, _), (second, suffix) = (_parts(end, unit, largest) for end in (low, high))
    if low < 0:
        return f"{first} to {'+' if high > 0 else ''}{second}{suffix}"
    return f"{first}{TO}{second}{suffix}"


def _parts(value: float, unit: str, largest: float) -> tuple[str, str]:
    """The digits and the unit of a number, scaled to the largest that stands beside it."""
    if unit == "ms":
        return _time(value, largest)
    if unit == "usd":
        return dollars(value * ANSWERS), ""
    sign, size = (MINUS if value < 0 else ""), abs(value)
    if unit in ("share", "points"):
        return f"{sign}{size * 100:.0f}", "%" if unit == "share" else " points"
    if unit == "score":
        return f"{sign}{size:.2f}", ""
    digits = f"{size:,.1f}" if largest < 10 and size % 1 else f"{size:,.0f}"
    return sign + digits, {"tokens/s": " tok/s", "more tokens": " tokens"}.get(unit, "")


def _time(ms: float, largest: float) -> tuple[str, str]:
    sign, ms = (MINUS if ms < 0 else ""), abs(ms)
    if largest < 999.5:
        return (f"{sign}{ms:.0f}" if largest >= 9.95 else f"{sign}{ms:.1f}"), " ms"
    seconds = ms / 1000
    if largest < 99_950:
        return f"{sign}{seconds:.{2 if largest < 9_995 else 1}f}", " s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {rest:02} s", ""
    return f"{sign}{minutes // 60} h {minutes % 60:02} min", ""
