"""The charts of the page: how long answers took, what quality costs, differences from the reference, tokens."""

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from llmproxy.bench.report import svg
from llmproxy.bench.report.measures import COST, PAIRWISE, Measure
from llmproxy.bench.report.scales import scale
from llmproxy.bench.report.statistics import EVEN, Statistics, TargetStatistics, frontier
from llmproxy.bench.report.units import difference_tick, interval, number, sentence, tick

# More dots of one target would be a blot; these are then taken evenly by rank.
DOTS = 250
ROW = 62
COMPARED_ROW = 60
# The golden ratio spreads neighbours in rank apart, the same way each time.
SPREAD = 0.618034


def distribution(found: Statistics, measure: Measure) -> Markup | None:
    """Each answer a dot, with the box of the middle half and the median; None where no answer has the measure."""
    values = [sorted(_values(target, measure)) for target in found.targets]
    if not any(values):
        return None
    along = scale([value for row in values for value in row])
    bottom = ROW * sum(map(bool, values)) + 4
    rows = [(at, target, row) for at, (target, row) in enumerate(zip(found.targets, values, strict=True)) if row]
    bands = [(place * ROW + 24, place * ROW + 62) for place in range(len(rows))]
    parts = [svg.axis(along, bands, bottom, lambda at: tick(at, measure.unit))]
    for place, (at, target, row) in enumerate(rows):
        top = place * ROW + 4
        middle = top + 38
        shown = row if len(row) <= DOTS else [row[i * (len(row) - 1) // (DOTS - 1)] for i in range(DOTS)]
        dots = [
            svg.dot(svg.across(along(value)), middle - 11 + 22 * (i * SPREAD % 1), number(value, measure.unit))
            for i, value in enumerate(shown)
        ]
        drawn = [svg.group("dots", *dots)]
        if len(row) >= 4:
            first, _, third = statistics.quantiles(row, n=4, method="inclusive")
            left, right = svg.across(along(first)), svg.across(along(third))
            says = f"middle half: {number(first, measure.unit)} to {number(third, measure.unit)}"
            drawn.append(svg.bar("box", left, middle - 14, right - left, 28, says))
        median = target.measured[measure.key].value
        x = svg.across(along(median))
        drawn.append(svg.line("median", x, middle - 16, x, middle + 16))
        drawn.append(svg.marker(at, svg.INSET, top + 12))
        parts.append(svg.group(svg.colour(at), *drawn))
        parts.append(svg.text("name", svg.INSET, top + 16, target.target.name, dx=12))
        parts.append(svg.text("value", 100 - svg.INSET, top + 16, number(median, measure.unit), "end"))
    medians = "; ".join(f"{t.target.name} {number(t.measured[measure.key].value, measure.unit)}" for _, t, _ in rows)
    return svg.chart(bottom + 24, f"{measure.name}, medians: {medians}", *parts)


def quality_cost(found: Statistics, measure: Measure) -> Markup | None:
    """Quality against cost with the frontier, unknown prices in a column of their own; None without any quality."""
    points = [(at, target, quality(target, measure)) for at, target in enumerate(found.targets)]
    placed = [(at, target, worth) for at, target, worth in points if worth is not None]
    if not placed:
        return None
    priced = {at: target.measured[COST.key].value for at, target, _ in placed if COST.key in target.measured}
    unpriced = len(priced) < len(placed)
    right = 100 - svg.INSET - (22 if unpriced else 0)
    top, bottom = 26.0, 286.0
    along, up = scale(list(priced.values())), scale([0.0, 1.0])

    def y(worth: float) -> float:
        return bottom - up(worth) * (bottom - top)

    parts = []
    for at in (0, 0.25, 0.5, 0.75, 1):
        parts.append(svg.line("grid", 0, y(at), 100, y(at)))
        parts.append(svg.text("tick", 0, y(at) - 4, number(at, measure.unit)))
    if priced:
        parts.append(svg.axis(along, [(top, bottom)], bottom, lambda at: tick(at, "usd"), right))
    if unpriced:
        x = right + svg.INSET
        parts.append(svg.line("edge", x, top - 14, x, bottom))
        parts.append(svg.text("tick", (x + 100) / 2, bottom + 16, "unknown", "middle"))
    best = frontier([(priced[at], worth) for at, _, worth in placed if at in priced])
    parts.append(_frontier([(svg.across(along(cost), right), y(worth)) for cost, worth in best], right))
    spots = {at: (svg.across(along(priced[at]), right) if at in priced else (right + svg.INSET + 100) / 2, y(worth))
             for at, _, worth in placed}  # fmt: skip
    labels = _labels({at: (spots[at], found.targets[at].target.name) for at in spots})
    for at, target, worth in placed:
        x, height = spots[at]
        drawn = []
        known = target.measured.get(measure.key)
        if known and known.low is not None and known.high is not None:
            drawn.append(svg.line("reach", x, y(known.low), x, y(known.high)))
        cost = target.measured.get(COST.key)
        if cost and cost.low is not None and cost.high is not None:
            ends = (svg.across(along(end), right) for end in (cost.low, cost.high))
            drawn.append(svg.line("reach", next(ends), height, next(ends), height))
        price = number(cost.value, "usd") if cost else "price unknown"
        drawn.append(svg.marker(at, x, height, f"{target.target.name}: {number(worth, measure.unit)}, {price}"))
        parts.append(svg.group(svg.colour(at), *drawn))
        parts.append(labels[at])
    says = "; ".join(f"{t.target.name} {number(worth, measure.unit)}" for _, t, worth in placed)
    return svg.chart(bottom + 24, f"{measure.name} against cost: {says}", *parts)


def quality(target: TargetStatistics, measure: Measure) -> float | None:
    """A target's quality by one measure. What is judged against the baseline is as good as it where it is it."""
    if measure is PAIRWISE and target.target.as_recorded and target.done:
        return EVEN
    estimate = target.measured.get(measure.key)
    return estimate.value if estimate else None


def differences(found: Statistics, measure: Measure) -> Markup | None:
    """Intervals of the differences from the reference around zero; None where nothing could be compared."""
    rows = [
        (at, target, compared)
        for at, target in enumerate(found.targets)
        for compared in target.compared
        if compared.measure is measure
    ]
    if not rows:
        return None
    ends = [end for *_, c in rows for end in (c.estimate.value, c.estimate.low, c.estimate.high) if end is not None]
    along = scale([*ends, 0.0], zero=False, ticks=4)
    bottom = len(rows) * COMPARED_ROW + 4
    zero = svg.across(along(0))
    bands = [(place * COMPARED_ROW + 32, place * COMPARED_ROW + 53) for place in range(len(rows))]
    parts = [svg.axis(along, bands, bottom, lambda at: difference_tick(at, measure.unit))]
    parts += [svg.line("zero", zero, top, zero, end) for top, end in bands]
    for place, (at, target, compared) in enumerate(rows):
        top = place * COMPARED_ROW + 4
        estimate, drawn = compared.estimate, []
        if estimate.low is not None and estimate.high is not None:
            left, right = svg.across(along(estimate.low)), svg.across(along(estimate.high))
            drawn.append(svg.bar("reach", left, top + 35, max(right - left, 0.4), 6, interval(estimate, measure.unit)))
        drawn.append(svg.marker(at, svg.across(along(estimate.value)), top + 38))
        parts.append(svg.group(svg.colour(at), *drawn))
        good = {True: "good", False: "bad", None: "none"}[compared.good]
        parts.append(svg.text("name", svg.INSET, top + 10, target.target.name))
        parts.append(svg.text(f"verdict {good}", svg.INSET, top + 25, sentence(compared)))
    says = "; ".join(f"{target.target.name}: {sentence(compared)}" for _, target, compared in rows)
    return svg.chart(bottom + 24, f"{measure.name}: {says}", *parts)


def tokens(found: Statistics) -> Markup | None:
    """Mean tokens of an answer, in and out, the cached and the reasoning ones darker; None where none are known."""
    rows = [(at, target, _means(target)) for at, target in enumerate(found.targets)]
    rows = [row for row in rows if any(row[2])]
    if not rows:
        return None
    along = scale([mean for *_, means in rows for mean in means], zero=True)
    if along.logarithmic:  # the length of a bar must tell its amount
        along = scale([0.0, *(mean for *_, means in rows for mean in means)])
    bottom = len(rows) * 66.0 + 4
    bands = [(place * 66 + 22, place * 66 + 62) for place in range(len(rows))]
    parts = [svg.axis(along, bands, bottom, lambda at: tick(at, "tokens"))]
    for place, (at, target, (entered, cached, said, reasoned)) in enumerate(rows):
        top = place * 66 + 4
        drawn, labels = [svg.marker(at, svg.INSET, top + 10)], []
        for y, whole, part, what, within in (
            (top + 22, entered, cached, "in", "cached"), (top + 40, said, reasoned, "out", "reasoning"),
        ):  # fmt: skip
            width = svg.across(along(whole)) - svg.INSET
            share = svg.across(along(min(part, whole))) - svg.INSET
            says = f"{what} {whole:,.0f}" + (f", {part:,.0f} {within}" if part else "")
            drawn.append(svg.bar("amount", svg.INSET, y, width, 14, says))
            if part:
                drawn.append(svg.bar("within", svg.INSET, y, share, 14, says))
            # A long bar leaves no room to its right.
            inside = width > 55
            x = svg.INSET + width
            labels.append(svg.text("amount-label", x, y + 11, says, "end" if inside else "start", -6 if inside else 6))
        parts += [svg.group(svg.colour(at), *drawn), *labels]
        parts.append(svg.text("name", svg.INSET, top + 14, target.target.name, dx=12))
    says = "; ".join(f"{t.target.name} {means[0]:,.0f} in, {means[2]:,.0f} out" for _, t, means in rows)
    return svg.chart(bottom + 24, f"Mean tokens of an answer: {says}", *parts)


def _values(target: TargetStatistics, measure: Measure) -> list[float]:
    return [v for result in target.results if result.status == "done" and (v := measure.of(result)) is not None]


def _means(target: TargetStatistics) -> tuple[float, float, float, float]:
    """Input, of it cached, output, of it reasoning; a part that is not reported is none of the whole."""
    done = [result for result in target.results if result.status == "done"]
    entered = [(r.input_tokens, r.cached_tokens or 0) for r in done if r.input_tokens is not None]
    said = [(r.output_tokens, r.reasoning_tokens or 0) for r in done if r.output_tokens is not None]
    return (*_mean(entered), *_mean(said))


def _mean(pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    count = max(len(pairs), 1)
    return sum(whole for whole, _ in pairs) / count, sum(part for _, part in pairs) / count


def _frontier(points: Sequence[tuple[float, float]], right: float) -> Markup:
    """Stairs: at each cost the best quality that can be had for it."""
    parts = []
    for at, (x, y) in enumerate(points):
        following = points[at + 1] if at + 1 < len(points) else None
        end = following[0] if following else right
        parts.append(svg.line("frontier", x, y, end, y))
        if following:
            parts.append(svg.line("frontier", end, y, end, following[1]))
    return Markup("").join(parts)


def _labels(spots: dict[int, tuple[tuple[float, float], str]]) -> dict[int, Markup]:
    """Names beside their points where they cover nothing, for a chart about 560 pixels wide; else none at all."""
    wide, letter = 5.6, 6.9
    taken = [(x * wide - 8, y - 8, x * wide + 8, y + 8) for (x, y), _ in spots.values()]
    labels = {}
    for at, ((x, y), name) in spots.items():
        length = len(name) * letter
        labels[at] = Markup("")
        for anchor, dx, dy, left in (
            ("start", 11, 4, 11), ("end", -11, 4, -11 - length), ("middle", 0, -13, -length / 2),
            ("middle", 0, 21, -length / 2), ("start", 11, -9, 11), ("start", 11, 17, 11),
            ("end", -11, -9, -11 - length),
        ):  # fmt: skip
            box = (x * wide + left, y + dy - 11, x * wide + left + length, y + dy + 3)
            if box[0] < 30 or box[2] > 100 * wide or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            labels[at] = svg.text("name point-label", x, y + dy, name, anchor, dx)
            break
    return labels


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
