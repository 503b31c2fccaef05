"""`llmproxy stats --by …`: what passed, by day, model, upstream, client, thread: calls, tokens, cost, latency, errors.

Replayed answers are left out: nothing was asked of a model.
"""

import importlib.util
import json
import math
import sqlite3
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from llmproxy.config import Config
from llmproxy.prices import Prices
from llmproxy.stats import opened
from llmproxy.store.exchanges import REPLAYED
from llmproxy.tokens import Tokens, counted

By = Literal["day", "model", "upstream", "client", "thread", "api"]
BYS: tuple[By, ...] = get_args(By)

_EXPRESSIONS: Mapping[By, str] = {
    "day": "substr(e.started_utc, 1, 10)",
    "model": "e.model",
    "upstream": "e.upstream",
    "client": "e.client",
    "thread": "e.thread_id",
    "api": "e.api",
}
_BUCKETS = 16


@dataclass(slots=True)
class Group:
    """What passed for one value, or values, of what it is counted by.

    - `errors`: calls that were refused (4xx, 5xx) or did not end well; `tokens` are as reported, `unreported` says for
      how many good calls nothing was.
    - `cost_usd`: the sum of the costs that are known, None where no one is; `unpriced`: calls that have none.
    - latencies in milliseconds, of good calls: the median and the 95th percentile.
    - `calls_over_time`, `tokens_over_time`: in equal parts of the time from the first call of all to the last, or for
      a day in its hours (UTC).
    """

    name: tuple[str | None, ...]
    label: str = ""
    calls: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    unreported: int = 0
    cost_usd: float | None = None
    unpriced: int = 0
    first_token_ms_p50: float | None = None
    first_token_ms_p95: float | None = None
    duration_ms_p50: float | None = None
    duration_ms_p95: float | None = None
    calls_over_time: list[int] = field(default_factory=list)
    tokens_over_time: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The groups, by day in their order, else the most calls first. `priced`: whether costs were looked for at all."""

    by: tuple[By, ...]
    groups: Sequence[Group]
    total: Group
    priced: bool


class _Tally:
    """A group while it is counted."""

    def __init__(self, name: tuple[str | None, ...], buckets: int) -> None:
        self.group = Group(name, calls_over_time=[0] * buckets, tokens_over_time=[0] * buckets)
        self._first_tokens = array("d")
        self._durations = array("d")

    def add(self, row: Mapping[str, Any], cached_tokens: int, bucket: int, cost: float | None) -> None:
        group = self.group
        group.calls += 1
        group.calls_over_time[bucket] += 1
        tokens = (row["input_tokens"] or 0) + (row["output_tokens"] or 0)
        group.tokens_over_time[bucket] += tokens
        group.input_tokens += row["input_tokens"] or 0
        group.output_tokens += row["output_tokens"] or 0
        group.cached_tokens += cached_tokens
        if row["outcome"] != "complete" or (row["status"] or 599) >= 400:
            group.errors += 1
        else:
            group.unreported += row["api"] is not None and row["input_tokens"] is None and row["output_tokens"] is None
            if row["first_token_ms"] is not None:
                self._first_tokens.append(row["first_token_ms"])
            if row["duration_ms"] is not None:
                self._durations.append(row["duration_ms"])
        if cost is not None:
            group.cost_usd = (group.cost_usd or 0) + cost
        elif row["turn_id"] is not None:
            group.unpriced += 1

    def done(self) -> Group:
        group = self.group
        group.first_token_ms_p50, group.first_token_ms_p95 = _percentiles(self._first_tokens)
        group.duration_ms_p50, group.duration_ms_p95 = _percentiles(self._durations)
        return group


def break_down(config: Config, by: Sequence[By], since: str | None = None) -> Breakdown:
    """Count what is in the database. `since`: as `store.selection.parse_since` gives it. Raises `NothingCaptured`."""
    with opened(config.capture) as database:
        return _break_down(database, tuple(by), since or "", _prices(config))


_COLUMNS = (
    "turn_id upstream model api status outcome input_tokens output_tokens token_details started_utc first_token_ms"
    " duration_ms"
).split()


def _break_down(database: sqlite3.Connection, by: tuple[By, ...], since: str, prices: Prices | None) -> Breakdown:
    where = "where coalesce(e.reason, '') != :replayed and e.started_utc >= :since and e.method = 'POST'"
    parameters = {"replayed": REPLAYED, "since": since}
    first, last = database.execute(
        f"select min(started_utc), max(started_utc) from llmproxy_exchanges as e {where}", parameters
    ).fetchone()
    place = _hour if by == ("day",) else _part_of(first, last)
    buckets = 24 if by == ("day",) else _BUCKETS
    names = ", ".join(_EXPRESSIONS[each] for each in by)
    columns = ", ".join(f"e.{column}" for column in _COLUMNS)
    tallies: dict[tuple[str | None, ...], _Tally] = {}
    total = _Tally((), buckets)
    for values in database.execute(f"select {names}, {columns} from llmproxy_exchanges as e {where}", parameters):
        name = values[: len(by)]
        row = dict(zip(_COLUMNS, values[len(by) :], strict=True))
        tokens = counted(row["input_tokens"], row["output_tokens"], json.loads(row["token_details"] or "{}"))
        cost = _cost(prices, row, tokens)
        bucket = place(row["started_utc"])
        for tally in (tallies.setdefault(name, _Tally(name, buckets)), total):
            tally.add(row, tokens.cached_tokens or 0, bucket, cost)
    groups = [tally.done() for tally in tallies.values()]
    titles = _titles(database, groups) if "thread" in by else {}
    for group in groups:
        group.label = " / ".join(titles.get(each or "", each) or "-" for each in group.name)
    # By day first in the days' order, anything else by how much it is.
    days = by.index("day") if "day" in by else None
    groups.sort(key=lambda group: (group.name[days] or "" if days is not None else "", -group.calls, group.label))
    return Breakdown(by, groups, total.done(), prices is not None)


def _prices(config: Config) -> Prices | None:
    """The prices that `llmproxy bench` goes by; None where its extra is not installed."""
    return Prices(config) if importlib.util.find_spec("genai_prices") is not None else None


def _cost(prices: Prices | None, row: Mapping[str, Any], tokens: Tokens) -> float | None:
    if prices is None or row["turn_id"] is None or row["model"] is None:
        return None
    return prices.cost(row["upstream"], row["model"], tokens)


def _titles(database: sqlite3.Connection, groups: Sequence[Group]) -> dict[str, str]:
    """Threads by what the user said last in them."""
    titles = dict(database.execute("select id, id || '  ' || coalesce(name, '') from threads").fetchall())
    return {id: titles[id] for group in groups for id in group.name if id is not None and id in titles}


def _percentiles(values: "array[float]") -> tuple[float | None, float | None]:
    """The median and the 95th percentile, by nearest rank."""
    if not values:
        return None, None
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * 0.5) - 1], ordered[math.ceil(len(ordered) * 0.95) - 1]


def _hour(started: str) -> int:
    return int(started[11:13])


def _part_of(first: str | None, last: str | None) -> Callable[[str], int]:
    begin, end = (datetime.fromisoformat(each).timestamp() if each else 0.0 for each in (first, last))
    width = (end - begin) / _BUCKETS or 1.0
    return lambda started: min(int((datetime.fromisoformat(started).timestamp() - begin) / width), _BUCKETS - 1)
