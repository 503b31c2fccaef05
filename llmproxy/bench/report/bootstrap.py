"""Estimates with bootstrap intervals, where the prompt is what was sampled and its repeats are not independent.

Each prompt's repeats are brought to one value (their median or mean), and the estimate is the median or mean of those.
The interval comes from resampling prompts, and within each its repeats (Davison & Hinkley, Bootstrap Methods and their
Application, 1997, section 3.8; percentile interval, section 5.3). Every draw of the two stages is an independent draw
from one mixture of all prompts' resampled values, so that mixture is made once, sorted, and drawn from: the order in
which results come in changes nothing, and the same results give the same interval.
"""

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Centre = Literal["median", "mean"]

LEVEL = 0.95
RESAMPLES = 2000
# A mean of many prompts needs a draw for each of them; its interval is then steady with fewer resamples.
DRAWS = 500_000
SEED = 20_241_027
# Values of one prompt with repeats, in the mixture.
SECOND_STAGE = 32
# The range of fewer than six values holds the median with less than 95%: 1 - 2 * 0.5**5 is 0.94.
FEWEST = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median or mean with its 95% interval, which always holds it.

    `low` and `high` are None where there are fewer than `FEWEST` prompts: then no interval would be honest. `prompts`
    and `values` are how many of each went in, `missing` how many answers had no such value.
    """

    value: float
    low: float | None
    high: float | None
    prompts: int
    values: int
    missing: int = 0

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds zero; true where there is no interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def estimate(groups: Sequence[Sequence[float]], centre: Centre, *, share: bool = False, missing: int = 0) -> Estimate:
    """The centre of prompts' centres. `groups` holds the values of each prompt, none of them empty.

    `share` says that values lie between 0 and 1. Where all are 0, or all are 1, resampling would claim certainty: the
    interval is then the exact binomial one (Clopper & Pearson 1934). Raises ValueError where there is no group.
    """
    ordered = sorted(sorted(group) for group in groups)
    middle = _centre([_centre(group, centre) for group in ordered], centre)
    low = high = None
    if len(ordered) >= FEWEST:
        flat = {value for group in ordered for value in group}
        if share and flat in ({0.0}, {1.0}):
            reach = 1 - ((1 - LEVEL) / 2) ** (1 / len(ordered))
            low, high = (0.0, reach) if flat == {0.0} else (1 - reach, 1.0)
        else:
            low, high = _interval(_mixture(ordered, centre), len(ordered), centre, middle)
    return Estimate(middle, low, high, len(ordered), sum(len(group) for group in ordered), missing)


def difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]], centre: Centre) -> Estimate:
    """The centre of prompts' differences, second minus first. `pairs` holds each prompt's values on both sides.

    Raises ValueError where there is no pair.
    """
    ordered = sorted((sorted(first), sorted(second)) for first, second in pairs)
    middle = _centre([_centre(second, centre) - _centre(first, centre) for first, second in ordered], centre)
    low = high = None
    if len(ordered) >= FEWEST:
        firsts = _mixture([first for first, _ in ordered], centre)
        # Another seed, or both sides would draw the same repeats.
        seconds = _mixture([second for _, second in ordered], centre, seed=SEED + 1)
        # The shorter side has one value for each prompt, which stands against all of the other side's.
        each = max(len(firsts), len(seconds))
        firsts, seconds = (
            [side[at * len(side) // each] for at in range(each)] if len(side) < each else side
            for side in (firsts, seconds)
        )
        mixture = [after - before for before, after in zip(firsts, seconds, strict=True)]
        low, high = _interval(mixture, len(ordered), centre, middle)
    return Estimate(middle, low, high, len(ordered), sum(len(first) + len(second) for first, second in ordered))


def _centre(values: Sequence[float], centre: Centre) -> float:
    if centre == "median":
        return statistics.median(values)
    # As in `_interval`.
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def _mixture(groups: Sequence[Sequence[float]], centre: Centre, seed: int = SEED) -> list[float]:
    """Values that a resampled prompt may have, each as likely as another, in the order of the prompts."""
    if all(len(group) == 1 for group in groups):
        return [group[0] for group in groups]
    dice = random.Random(seed)
    return [_centre(dice.choices(group, k=len(group)), centre) for group in groups for _ in range(SECOND_STAGE)]


def _interval(mixture: Sequence[float], prompts: int, centre: Centre, middle: float) -> tuple[float, float]:
    dice = random.Random(SEED)
    draw = _medians if centre == "median" else _means
    drawn = sorted(draw(sorted(mixture), prompts, dice))
    tail = (1 - LEVEL) / 2
    # The rounding of a sum may carry a mean beyond the values it is of.
    low = max(drawn[math.floor(tail * len(drawn))], min(mixture))
    high = min(drawn[math.ceil((1 - tail) * len(drawn)) - 1], max(mixture))
    # Resampled repeats may lie to one side of the estimate; an interval that leaves it out would confuse.
    return min(low, middle), max(high, middle)


def _medians(mixture: Sequence[float], prompts: int, dice: random.Random) -> Iterator[float]:
    """Medians of `prompts` draws each.

    The middle draw alone is drawn: of n uniform numbers the k-th smallest is Beta(k, n - k + 1), and the next one is
    the smallest of the n - k that lie above it.
    """
    rank = (prompts + 1) // 2

    def at(position: float) -> float:
        return mixture[min(int(position * len(mixture)), len(mixture) - 1)]

    for _ in range(RESAMPLES):
        lower = dice.betavariate(rank, prompts - rank + 1)
        if prompts % 2:
            yield at(lower)
        else:
            upper = lower + (1 - lower) * (1 - dice.random() ** (1 / (prompts - rank)))
            yield (at(lower) + at(upper)) / 2


def _means(mixture: Sequence[float], prompts: int, dice: random.Random) -> Iterator[float]:
    for _ in range(max(500, min(RESAMPLES, DRAWS // prompts))):
        yield math.fsum(dice.choices(mixture, k=prompts)) / prompts
