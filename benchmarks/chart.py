"""The chart: ratios as bars, a plain SVG that is readable on light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH = 760
LABEL_WIDTH = 210
NUMBER_WIDTH = 70
BAR = 14
GAP = 16
LONGEST = 100.0
TOP = 74

# GitHub shows an SVG in an <img>, which follows the reader's colour scheme but runs no script and loads no font.
DOCUMENT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" \
aria-labelledby="title description">
<title id="title">{title}</title>
<desc id="description">{description}</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }}
.title {{ font-size: 16px; font-weight: 600; }}
.quiet {{ fill: #59636e; font-size: 12px; }}
.grid {{ stroke: #d1d9e0; }}
.a {{ fill: #0969da; }} .b {{ fill: #bc6c1a; }} .c {{ fill: #8250df; }} .d {{ fill: #59636e; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc; }}
.quiet {{ fill: #9198a1; }}
.grid {{ stroke: #3d444d; }}
.a {{ fill: #4493f8; }} .b {{ fill: #e3a04f; }} .c {{ fill: #ab7df8; }} .d {{ fill: #9198a1; }}
}}
</style>
<text class="title" x="0" y="18">{title}</text>
<text class="quiet" x="0" y="38">{description}</text>
{body}
</svg>
"""


def chart(title: str, description: str, compared: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """Bars on a logarithmic scale from 1 or below to `LONGEST`: for each row of `compared`, one for each of `names`.

    A longer one is cut; its number tells.
    """
    values = [row[name] for row in compared.values() for name in names if _shown(row, name)]
    low = 10.0 ** math.floor(math.log10(min([1.0, *values])))
    room = WIDTH - LABEL_WIDTH - NUMBER_WIDTH

    def x(value: float) -> float:
        return LABEL_WIDTH + room * math.log10(min(value, LONGEST) / low) / math.log10(LONGEST / low)

    height = TOP + len(compared) * (len(names) * BAR + GAP)
    parts = []
    for at, name in enumerate(names):
        parts.append(f'<rect class="{"abcd"[at % 4]}" x="{at * 110}" y="48" width="11" height="11"/>')
        parts.append(f'<text x="{at * 110 + 17}" y="58">{escape(name)}</text>')
    power = low
    while power <= LONGEST:
        parts.append(f'<line class="grid" x1="{x(power):.1f}" x2="{x(power):.1f}" y1="{TOP - 4}" y2="{height - 8}"/>')
        parts.append(f'<text class="quiet" x="{x(power):.1f}" y="{TOP - 8}" text-anchor="middle">{power:g}x</text>')
        power *= 10
    for at, (says, row) in enumerate(compared.items()):
        top = TOP + at * (len(names) * BAR + GAP)
        middle = top + len(names) * BAR / 2 + 4
        parts.append(f'<text x="{LABEL_WIDTH - 10}" y="{middle:.1f}" text-anchor="end">{escape(says)}</text>')
        for bar, name in enumerate(names):
            if _shown(row, name):
                end, y = x(row[name]), top + bar * BAR
                parts.append(
                    f'<rect class="{"abcd"[bar % 4]}" x="{LABEL_WIDTH}" y="{y}"'
                    f' width="{max(end - LABEL_WIDTH, 1.5):.1f}" height="{BAR - 3}"/>'
                )
                parts.append(f'<text class="quiet" x="{end + 5:.1f}" y="{y + 10}">{_number(row[name])}x</text>')
    return DOCUMENT.format(
        width=WIDTH, height=height, title=escape(title), description=escape(description), body="\n".join(parts)
    )


def _shown(row: Mapping[str, float], name: str) -> bool:
    value = row.get(name, math.nan)
    return math.isfinite(value) and value > 0


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"
