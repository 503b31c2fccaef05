"""What the charts are drawn of: SVG without a view box, so that it is as wide as its place and its text stays as it is.

Places from left to right are in percent of the chart's width, from top to bottom in pixels.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from llmproxy.bench.report.scales import Scale

# A tick's label is centred on its tick, and needs room at both ends.
INSET = 3.0
# Colours and shapes by the target's place in the run; a reader who sees no colours has the shapes.
COLOURS = 8
SHAPES = 5


def across(part: float, right: float = 100 - INSET) -> float:
    """Percent of the chart's width for a place on its axis (0 to 1), which ends at `right`."""
    return INSET + part * (right - INSET)


def chart(height: float, says: str, *parts: Markup) -> Markup:
    """A chart; `says` is what a reader who cannot see it is told."""
    return Markup('<svg class="chart" role="img" aria-label="{}" height="{:.0f}">{}</svg>').format(
        says, height, Markup("").join(parts)
    )


def line(cls: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(cls, x1, y1, x2, y2)


def text(cls: str, x: float, y: float, says: str, anchor: str = "start", dx: float = 0) -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" dx="{:g}" text-anchor="{}">{}</text>').format(
        cls, x, y, dx, anchor, says
    )


def bar(cls: str, x: float, y: float, width: float, height: float, title: str = "") -> Markup:
    return Markup('<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}" rx="2">{}</rect>').format(
        cls, x, y, width, height, _title(title)
    )


def dot(x: float, y: float, title: str = "") -> Markup:
    return Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="2.6">{}</circle>').format(x, y, _title(title))


def group(cls: str, *parts: Markup) -> Markup:
    return Markup('<g class="{}">{}</g>').format(cls, Markup("").join(parts))


def marker(at: int, x: float, y: float, title: str = "") -> Markup:
    """The shape of the target at a place in the run."""
    return Markup('<use class="marker" href="#shape{}" x="{:.2f}%" y="{:.1f}">{}</use>').format(
        at % SHAPES, x, y, _title(title)
    )


def axis(
    scale: Scale,
    bands: Sequence[tuple[float, float]],
    bottom: float,
    says: Callable[[float], str],
    right: float = 100 - INSET,
) -> Markup:
    """Lines at the ticks in each band from its top to its bottom, and their labels under `bottom`.

    Bands leave out the rows of text, which lines would run through.
    """
    parts = []
    for tick in scale.ticks:
        x = across(scale(tick), right)
        parts += [line("grid", x, top, x, end) for top, end in bands]
        parts.append(text("tick", x, bottom + 16, says(tick), "middle"))
    return Markup("").join(parts)


def colour(at: int) -> str:
    """The class that sets the colour of the target at a place in the run."""
    return f"c{at % COLOURS}"


def _title(says: str) -> Markup:
    return Markup("<title>{}</title>").format(says) if says else Markup("")
