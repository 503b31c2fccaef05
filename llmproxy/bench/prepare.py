"""From the options of `llmproxy bench` to the settings and the prompts of a run."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy.bench.check_file import read_check_file
from llmproxy.bench.prices import Prices
from llmproxy.bench.results import Target
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage import Storage
from llmproxy.config import Config
from llmproxy.reingest import parse_since
from llmproxy.store.selection import Selection, select


class WrongUsage(ValueError):
    """What was asked for cannot be; one line for the user with the mend."""


def settings_of(given: Mapping[str, Any], before: Mapping[str, Any]) -> Settings:
    """The settings that the options mean, over those of `before`. Raises `WrongUsage`, `WrongCheck`."""
    said = {
        name: given[name]
        for name in ("repeat", "concurrency", "retries", "max_cost", "judge")
        if given[name] is not None
    }
    if given["rate"] is not None:
        said["rate"] = _rate(given["rate"])
    if given["no_warm_up"]:
        said["warm_up"] = False
    if given["check_file"] is not None or given["checks"]:
        said["checks"] = read_check_file(given["check_file"], given["checks"]).model_dump()
    if given["rubric"] is not None:
        said["rubric"] = given["rubric"].read_text(encoding="utf-8")
    settings = Settings.model_validate({**before, **said})
    if settings.rubric is not None and settings.judge is None:
        raise WrongUsage("--rubric is what a judge judges by; name one with --judge UPSTREAM/MODEL")
    return settings


def _rate(text: str) -> float:
    number, _, unit = text.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600}.get(unit.strip())
    try:
        rate = float(number) / (seconds or 0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if rate <= 0:
        raise WrongUsage(f"--rate {text}: write 5 or 5/s for a second, 60/m for a minute")
    return rate


def turn_ids_of(store: Storage, ids: tuple[str, ...], given: Mapping[str, Any]) -> list[str]:
    """The turns that the options choose, or that are named. Raises `WrongUsage`."""
    if ids:
        read = (word for id in ids for word in (sys.stdin.read().split() if id == "-" else [id]))
        found = list(dict.fromkeys(read))
        missing = [id for id in found if store.db.execute("select 1 from turns where id = ?", [id]).fetchone() is None]
        if missing:
            raise WrongUsage(f"there is no turn {missing[0]}; llm logs --json shows the ids")
    else:
        names = ("query", "model", "thread", "upstream", "client", "tool", "limit", "sample", "seed")
        try:
            since = parse_since(given["since"]) if given["since"] else None
        except ValueError:
            raise WrongUsage(f"--since {given['since']!r}: write 2026-01-31, 12h or 7d") from None
        found = select(store.db, Selection(since=since, **{name: given[name] for name in names}))
    if not found:
        raise WrongUsage("no captured turn fits; llm logs shows what there is")
    return found


def said(given: Mapping[str, Any], ids: tuple[str, ...]) -> str:
    """How the turns were chosen, in words."""
    names = ("query", "model", "since", "thread", "upstream", "client", "tool", "limit", "sample")
    said = [f"--{name} {given[name]}" for name in names if given[name] is not None]
    return f"{len(ids)} ids" if ids and ids != ("-",) else "ids of standard input" if ids else " ".join(said) or "all"


def check_prices(config: Config, chosen: Sequence[Target], settings: Settings) -> None:
    """Refuse a limit on what cannot be counted. Raises `WrongUsage`."""
    for target in chosen if settings.max_cost is not None else ():
        if target.as_recorded:
            continue
        if Prices(config).cost(target.upstream, target.model, input_tokens=1, output_tokens=1) is None:
            raise WrongUsage(
                f"--max-cost: the price of {target.upstream}/{target.model} is not known; say it in the configuration:"
                f" prices: {{{target.upstream}/{target.model}: {{input: 0.5, output: 1.5}}}}"
            )
