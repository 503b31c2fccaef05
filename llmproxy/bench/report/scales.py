"""From values to places on a chart's axis, with ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Beyond this ratio of the largest to the smallest value, a linear axis would press the small ones together.
LOGARITHMIC = 15
# Below it floats lose their digits (2.2e-308 and less are subnormal), and no step between ticks can be worked out.
_NOTHING = 1e-290


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`; `ticks` lie on it."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Where a value lies: 0 at the axis' beginning, 1 at its end; what lies beyond is put there."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            low = math.log(self.low)
            return (math.log(value) - low) / (math.log(self.high) - low)
        return (value - self.low) / (self.high - self.low)


def scale(values: Sequence[float], *, zero: bool = True, ticks: int = 5) -> Scale:
    """An axis that holds all values: from zero, or logarithmic where they are positive and far apart.

    Without `zero` it need not begin there, and is never logarithmic. Without values it runs from 0 to 1.
    """
    values = [value if abs(value) > _NOTHING else 0.0 for value in values]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if zero and low > 0 and high / low > LOGARITHMIC:
        return _logarithmic(low, high, ticks)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= abs(high) * 1e-9:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    step = _step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, False, tuple(at * step for at in range(first, last + 1)))


def _step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) next above."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * (1 + 1e-9))


def _logarithmic(low: float, high: float, ticks: int) -> Scale:
    low, high = low / 1.08, high * 1.08
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**power for power in powers for f in factors if low <= f * 10.0**power <= high]
        if len(found) <= ticks + 1:
            break
    thinned = found[:: math.ceil(len(found) / (ticks + 1))] if found else []
    return Scale(low, high, True, tuple(thinned))
