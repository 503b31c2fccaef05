"""From the options of `llmproxy bench` to what is to be run: turns, targets and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmproxy.bench.calls import client_name
from llmproxy.bench.check_file import read_check_file
from llmproxy.bench.results import Target
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage import Storage
from llmproxy.bench.targets import baseline
from llmproxy.config import Config
from llmproxy.prices import Prices
from llmproxy.store.selection import Selection, select
from llmproxy.tokens import Tokens


class WrongUsage(ValueError):
    """What was asked for cannot be; one line for the user with the mend."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. `resumes`: the id of the run that goes on; None for a new one."""

    resumes: str | None
    turn_ids: Sequence[str]
    targets: Sequence[Target]
    settings: Settings


def plan(
    storage: Storage, config: Config, asked: Sequence[Target], selection: Selection, given: Mapping[str, Any]
) -> Plan:
    """What the options ask for: `asked` are the targets, `selection` the turns, `given` all others.

    Raises `WrongUsage`, `WrongCheck`, `NoRun`, `UnknownTurns`, `BadQuery`.
    """
    if given["resume"] is not None:
        if asked or selection != Selection() or given["as_recorded"]:
            raise WrongUsage("--resume goes on with a run's own targets and prompts; leave others out")
        run = storage.read(storage.find(given["resume"]), results=False)
        turn_ids = [prompt.turn_id for prompt in run.prompts]
        return Plan(run.id, turn_ids, run.targets, _settings_of(given, run.settings))
    if not asked:
        first = next(iter(config.upstreams))
        raise WrongUsage(f"--target is needed: UPSTREAM/MODEL, such as {first}/MODEL")
    targets = (*((baseline(),) if given["as_recorded"] else ()), *asked)
    settings = _settings_of(given, {"seed": selection.seed, "selection": _said(selection)})
    return Plan(None, _turn_ids_of(storage, selection), targets, settings)


def _settings_of(given: Mapping[str, Any], before: Mapping[str, Any]) -> Settings:
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


def _turn_ids_of(storage: Storage, selection: Selection) -> list[str]:
    """The chosen turns. What earlier runs were answered is among them only where it is asked for.

    Raises `WrongUsage`, `UnknownTurns`, `BadQuery`.
    """
    if selection.ids is None and selection.client is None and selection.thread is None:
        everything = select(storage.db.conn, replace(selection, limit=None, sample=None))
        asked_by_us = {
            row[0]
            for row in storage.db.execute(
                "select turn_id from llmproxy_exchanges where turn_id is not null and client glob ?", [client_name("*")]
            )
        }
        own = [turn_id for turn_id in everything if turn_id not in asked_by_us]
        newest = own[-selection.limit :] if selection.limit is not None else own
        found = select(storage.db.conn, Selection(ids=tuple(newest), sample=selection.sample, seed=selection.seed))
    else:
        found = select(storage.db.conn, selection)
    if not found:
        raise WrongUsage("no captured turn fits; llm logs shows what there is")
    return found


def _said(selection: Selection) -> str:
    """How the turns were chosen, in words."""
    words = [
        f"{len(selection.ids)} ids" if name == "ids" and selection.ids is not None else f"--{name} {value}"
        for name, value in asdict(selection).items()
        if value is not None and (name != "seed" or selection.sample is not None)
    ]
    return " ".join(words) or "all"


def check_prices(config: Config, chosen: Sequence[Target], settings: Settings) -> None:
    """Refuse a limit on what cannot be counted. Raises `WrongUsage`."""
    for target in chosen if settings.max_cost is not None else ():
        if target.as_recorded:
            continue
        if Prices(config).cost(target.upstream, target.model, Tokens(1, 1)) is None:
            raise WrongUsage(
                f"--max-cost: the price of {target.upstream}/{target.model} is not known; say it in the configuration:"
                f" prices: {{{target.upstream}/{target.model}: {{input: 0.5, output: 1.5}}}}"
            )
