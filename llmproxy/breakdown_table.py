"""What passed, as a table for a terminal, or as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from llmproxy.breakdown import Breakdown, Group

_BARS = "▁▂▃▄▅▆▇█"
_BARRED = ("calls over time", "tokens over time")
_NAME_WIDTH = 24


def sparkline(counts: Sequence[int]) -> str:
    """The counts as bars; a space where there was nothing."""
    most = max(counts, default=0)
    return "".join(" " if not count else _BARS[math.ceil(count / most * len(_BARS)) - 1] for count in counts)


def render(breakdown: Breakdown, *, as_json: bool, top: int, width: int) -> str:
    """As a table for a terminal of `width` columns with the `top` groups, or all as JSON."""
    if as_json:
        return json.dumps(asdict(breakdown), indent=2, ensure_ascii=False)
    return _table(breakdown, top, width)


def _table(breakdown: Breakdown, top: int, width: int) -> str:
    groups = breakdown.groups[-top:] if breakdown.by == ("day",) else breakdown.groups[:top]
    rows = [_cells(group, group.label, breakdown) for group in groups]
    if len(groups) > 1:
        rows.append(_cells(breakdown.total, f"all {len(breakdown.groups)}", breakdown))
    columns = [
        _Column(head, [row[at] for row in rows], is_text=at == 0 or head in _BARRED)
        for at, head in enumerate([" / ".join(breakdown.by), *_heads(breakdown)])
    ]
    while len(columns) > 3 and columns[-1].head in _BARRED and _width(columns, _NAME_WIDTH) > width:
        columns.pop()
    columns[0].width = min(columns[0].width, max(width - _width(columns, 0), _NAME_WIDTH))
    lines = ["  ".join(column.cell(at) for column in columns).rstrip() for at in range(-1, len(rows))]
    if left := len(breakdown.groups) - len(groups):
        lines.append(f"and {left} more; --top {len(breakdown.groups)} shows them")
    if breakdown.priced and breakdown.total.unpriced:
        lines.append(f"the price of {breakdown.total.unpriced} calls is not known, and not in the sums")
    return "\n".join(lines)


class _Column:
    def __init__(self, head: str, cells: Sequence[str], *, is_text: bool) -> None:
        self.head = head
        self.is_text = is_text
        self.width = max(map(len, (head, *cells)))
        self._cells = cells

    def cell(self, at: int) -> str:
        """A cell, or for -1 the head, as wide as the column."""
        text = self.head if at < 0 else self._cells[at]
        text = text if len(text) <= self.width else text[: self.width - 1] + "…"
        return text.ljust(self.width) if self.is_text else text.rjust(self.width)


def _width(columns: Sequence[_Column], name: int) -> int:
    return min(columns[0].width, name) + sum(column.width for column in columns[1:]) + 2 * (len(columns) - 1)


def _heads(breakdown: Breakdown) -> list[str]:
    heads = ["calls", "errors", "tokens in"] + ["cached"] * bool(breakdown.total.cached_tokens) + ["tokens out"]
    return [*heads, *["cost"] * breakdown.priced, "first token p50", "p95", "whole p50", "p95", *_BARRED]


def _cells(group: Group, label: str, breakdown: Breakdown) -> list[str]:
    cells = [label, str(group.calls), str(group.errors or ""), f"{group.input_tokens:,}"]
    cells += [f"{group.cached_tokens:,}"] * bool(breakdown.total.cached_tokens) + [f"{group.output_tokens:,}"]
    if breakdown.priced:
        known = "unknown" if group.cost_usd is None else f"${group.cost_usd:,.4f}"
        cells.append(f"≥ {known}" if group.cost_usd is not None and group.unpriced else known)
    latencies = (group.first_token_ms_p50, group.first_token_ms_p95, group.duration_ms_p50, group.duration_ms_p95)
    cells += [_seconds(each) for each in latencies]
    return [*cells, sparkline(group.calls_over_time), sparkline(group.tokens_over_time)]


def _seconds(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
