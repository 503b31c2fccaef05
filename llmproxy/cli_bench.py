"""`llmproxy bench`: its command line."""

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click_default_group import DefaultGroup

from llmproxy.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config

if TYPE_CHECKING:
    from llmproxy.bench.estimate import Estimate
    from llmproxy.bench.results import Run
    from llmproxy.bench.settings import Settings
    from llmproxy.bench.storage import Storage
    from llmproxy.config import Config

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=DefaultGroup, default="run", default_if_no_args=False, invoke_without_command=False)
def bench() -> None:
    """Run your own conversations again, against other models, and compare.

    \b
    llmproxy bench --target deepseek/deepseek-chat --as-recorded --sample 50
    llmproxy bench report last --html report.html
    llmproxy bench list

    `llmproxy bench run --help` shows all options of a run.
    """


def _selection_options(function: F) -> F:
    for option in reversed(
        (
            click.option("--query", help="Turns whose question or answer holds this text."),
            click.option("--model", help="Turns of this model."),
            click.option("--since", help="Turns since: 2026-01-31, 2026-01-31T12:00, 12h, 7d."),
            click.option("--thread", help="Turns of this thread."),
            click.option("--upstream", help="Turns of this upstream."),
            click.option("--client", help="Turns of this client."),
            click.option("--tool", help="Turns that offered this tool."),
            click.option("--limit", type=click.IntRange(min=1), help="The newest so many."),
            click.option("--sample", type=click.IntRange(min=1), help="So many of them at random."),
        )
    ):
        function = option(function)
    return function


@bench.command("run")
@config_options
@click.argument("ids", nargs=-1)
@_selection_options
@click.option(
    "--target",
    "-t",
    "targets",
    multiple=True,
    help="UPSTREAM/MODEL[,option=value…], or a YAML file of targets. Repeat it. `llm/MODEL` is any model of `llm`.",
)
@click.option("--as-recorded", is_flag=True, help="The recorded answers too, as the baseline.")
@click.option("--repeat", type=click.IntRange(min=1), help="Ask each prompt so often. Default: 1.")
@click.option("--concurrency", "-j", type=click.IntRange(1, 1000), help="Calls at a time. Default: 4.")
@click.option("--rate", help="Calls begun at most: 5 or 5/s in a second, 60/m in a minute.")
@click.option("--retries", type=click.IntRange(min=0), help="For 429 and 5xx. Default: 4.")
@click.option(
    "--max-cost", type=click.FloatRange(min=0, min_open=True), help="Begin no call that may cost more (dollars)."
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the sample and the order of the calls.")
@click.option("--no-warm-up", is_flag=True, help="Do not open connections before the first call.")
@click.option(
    "--check", "checks", multiple=True, help="For every answer: contains:TEXT, regex:…, json, schema, tools …"
)
@click.option("--checks", "check_file", type=click.Path(path_type=Path), help="YAML file of checks for each prompt.")
@click.option("--judge", help="UPSTREAM/MODEL that compares each answer with the recorded one, in both orders.")
@click.option(
    "--rubric", type=click.Path(path_type=Path), help="Text file: the judge scores by it, and compares nothing."
)
@click.option("--dry-run", is_flag=True, help="Call nothing; show expected tokens and cost.")
@click.option("--resume", metavar="RUN", help="Go on with a run (`last`): what is done is not asked again.")
@click.option("--retry-failed", is_flag=True, help="With --resume: the calls that failed, too.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one page.")
def run(ids: tuple[str, ...], config_path: Path | None, database: Path | None, **given: Any) -> None:
    """Run captured turns against other models: chosen by options, or by IDS (`-` reads them from standard input).

    \b
    llmproxy bench --target openai/gpt-4o-mini --target deepseek/deepseek-chat,temperature=0 --as-recorded
    llmproxy bench --target mock/mock-small --query invoice --sample 100 --repeat 3 -j 8 --max-cost 2
    llm logs --json | jq -r '.[].id' | llmproxy bench --target mock/mock-large -
    llmproxy bench --resume last
    """
    _need_the_extra()
    from llmproxy.bench.storage import NoRun
    from llmproxy.config import ConfigError
    from llmproxy.serve import check_recordable, check_startable, set_up_logging

    set_up_logging(40)
    config = load_config(config_path, capture__database=database)
    try:
        check_recordable(config.capture)
        _run(config, ids, given, check_startable)
    except (ConfigError, ValueError) as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except (NoRun, sqlite3.Error, OSError) as exc:
        fail(str(exc), EXIT_FAILED)


def _run(config: "Config", ids: tuple[str, ...], given: dict[str, Any], check: Callable[["Config"], None]) -> None:
    from llmproxy.bench import benchmark, storage, targets

    chosen = (
        *((targets.baseline(),) if given["as_recorded"] else ()),
        *targets.parse_targets(given["targets"], config),
    )
    store = storage.Storage(config.capture.database_path)
    try:
        if given["resume"] is not None:
            if chosen or ids:
                raise click.UsageError("--resume goes on with a run's own targets and prompts; leave --target out")
            run_id = store.find(given["resume"])
            known = store.read(run_id, results=False)
            settings = _settings(given, known.settings)
            chosen = known.targets
            if given["retry_failed"]:
                store.forget_failed(run_id)
            store.end(run_id, ended=False)
        else:
            if all(target.as_recorded for target in chosen):
                first = next(iter(config.upstreams))
                raise click.UsageError(f"--target is needed: UPSTREAM/MODEL, such as {first}/MODEL")
            settings = _settings(given, {"seed": given["seed"], "selection": _said(given, ids)})
            turn_ids = _turn_ids(store, ids, given)
            if given["dry_run"]:
                config = targets.with_llm_upstream(config, [target.upstream for target in chosen])
                for estimate in benchmark.estimates(config, store, turn_ids, chosen, settings.repeat):
                    _show_estimate(estimate, len(turn_ids))
                return
        judge = targets.parse_targets([settings.judge], config) if settings.judge else ()
        config = targets.with_llm_upstream(config, [target.upstream for target in (*chosen, *judge)])
        check(config)
        _check_prices(config, (*chosen, *judge), settings)
        if given["resume"] is None:
            run_id = benchmark.new_run(store, turn_ids, chosen, settings).id
    finally:
        store.close()
    _go(config, run_id, settings, given["html"])


def _go(config: "Config", run_id: str, settings: "Settings", html: Path | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from llmproxy.bench.benchmark import benchmark
    from llmproxy.bench.results import Result
    from llmproxy.bench.storage import Storage

    store = Storage(config.capture.database_path)
    try:
        run = store.read(run_id, results=False)
        live = [target for target in run.targets if not target.as_recorded]
        names = {target.name for target in live}
        total = len(run.prompts) * len(live) * settings.repeat
        done = sum(key[1] in names for key in store.keys(run_id))
    finally:
        store.close()
    console = Console(stderr=True)
    console.print(
        f"run {run_id}: {len(run.prompts)} prompts x {len(live)} targets x {settings.repeat}", highlight=False
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed, cost = 0, 0.0
    with Progress(*columns, TextColumn("{task.fields[more]}"), console=console, transient=True) as progress:
        task = progress.add_task("answers", total=total, completed=done, more="")

        def tell(result: Result) -> None:
            nonlocal failed, cost
            failed += result.status == "failed"
            cost += result.cost_usd or 0.0
            more = f"{failed} failed  " * bool(failed) + f"${cost:.4f}" * bool(cost)
            if result.verdicts:
                progress.update(task, description="judging", more=more)
            else:
                progress.update(task, advance=1, more=more)

        ended = benchmark(config, run_id, settings, tell)
    _show(config, run_id, html)
    if ended.stopped == "max_cost":
        fail(
            f"stopped before more than ${settings.max_cost:g} were spent (${ended.spent:.4f} were);"
            f" go on with: llmproxy bench --resume {run_id} --max-cost MORE",
            EXIT_FAILED,
        )
    if ended.stopped is not None or ended.missing:
        fail(f"{ended.missing} answers are missing; go on with: llmproxy bench --resume {run_id}", EXIT_FAILED)


def _settings(given: dict[str, Any], before: Any) -> "Settings":
    from llmproxy.bench.check_file import read_check_file
    from llmproxy.bench.settings import Settings

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
        raise click.UsageError("--rubric is what a judge judges by; name one with --judge UPSTREAM/MODEL")
    return settings


def _rate(text: str) -> float:
    number, _, unit = text.partition("/")
    seconds = {"": 1, "s": 1, "m": 60, "h": 3600}.get(unit.strip())
    try:
        rate = float(number) / (seconds or 0)
    except (ValueError, ZeroDivisionError):
        rate = 0.0
    if rate <= 0:
        raise click.UsageError(f"--rate {text}: write 5 or 5/s for a second, 60/m for a minute")
    return rate


def _turn_ids(store: "Storage", ids: tuple[str, ...], given: dict[str, Any]) -> list[str]:
    from llmproxy.reingest import parse_since
    from llmproxy.store.selection import Selection, select

    if ids:
        read = (word for id in ids for word in (sys.stdin.read().split() if id == "-" else [id]))
        found = list(dict.fromkeys(read))
        missing = [id for id in found if store.db.execute("select 1 from turns where id = ?", [id]).fetchone() is None]
        if missing:
            raise click.UsageError(f"there is no turn {missing[0]}; llm logs --json shows the ids")
    else:
        names = ("query", "model", "thread", "upstream", "client", "tool", "limit", "sample", "seed")
        try:
            since = parse_since(given["since"]) if given["since"] else None
        except ValueError:
            raise click.UsageError(f"--since {given['since']!r}: write 2026-01-31, 12h or 7d") from None
        found = select(store.db, Selection(since=since, **{name: given[name] for name in names}))
    if not found:
        raise click.UsageError("no captured turn fits; llm logs shows what there is")
    return found


def _said(given: dict[str, Any], ids: tuple[str, ...]) -> str:
    names = ("query", "model", "since", "thread", "upstream", "client", "tool", "limit", "sample")
    said = [f"--{name} {given[name]}" for name in names if given[name] is not None]
    return f"{len(ids)} ids" if ids and ids != ("-",) else "ids of standard input" if ids else " ".join(said) or "all"


def _check_prices(config: "Config", chosen: Any, settings: "Settings") -> None:
    from llmproxy.bench.prices import Prices

    for target in chosen if settings.max_cost is not None else ():
        if target.as_recorded:
            continue
        if Prices(config).cost(target.upstream, target.model, input_tokens=1, output_tokens=1) is None:
            raise click.UsageError(
                f"--max-cost: the price of {target.upstream}/{target.model} is not known; say it in the configuration:"
                f" prices: {{{target.upstream}/{target.model}: {{input: 0.5, output: 1.5}}}}"
            )


def _show_estimate(estimate: "Estimate", prompts: int) -> None:
    cost = "unknown price" if estimate.cost_usd is None else f"${estimate.cost_usd:.4f}"
    click.echo(
        f"{estimate.target}: {estimate.calls} calls for {prompts} prompts,"
        f" about {estimate.input_tokens} tokens in and {estimate.output_tokens} out, {cost}"
    )
    for reason, count in estimate.skipped.items():
        click.echo(f"  {count} skipped: {reason}")
    for note, count in estimate.notes.items():
        click.echo(f"  {count}: {note}")


def _read(config: "Config", name: str | None) -> "Run":
    from llmproxy.bench.prices import Prices
    from llmproxy.bench.storage import Storage

    store = Storage(config.capture.database_path)
    try:
        return Prices(config).priced(store.read(store.find(name)))
    finally:
        store.close()


def _show(config: "Config", name: str, html: Path | None) -> None:
    from rich.console import Console

    from llmproxy.bench.report import terminal

    found = _read(config, name)
    Console().print(terminal.table(found))
    _write_page(found, html)


def _write_page(found: "Run", html: Path | None) -> None:
    if html is not None:
        from llmproxy.bench.report import html as page

        html.write_text(page.page(found), encoding="utf-8")
        click.echo(f"wrote {html}")


@bench.command("list")
@config_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_runs(config_path: Path | None, database: Path | None, as_json: bool) -> None:
    """List the runs, the newest first.

    \b
    llmproxy bench list
    """
    import json
    from dataclasses import asdict

    from llmproxy.bench.storage import Storage

    config = _existing(config_path, database)
    store = Storage(config.capture.database_path)
    try:
        summaries = store.summaries()
    finally:
        store.close()
    if as_json:
        click.echo(json.dumps([asdict(summary) for summary in summaries], indent=2))
        return
    for each in summaries:
        failed = f", {each.failed} failed" if each.failed else ""
        skipped = f", {each.skipped} skipped" if each.skipped else ""
        state = "" if each.ended_utc else "  (not ended)"
        click.echo(
            f"{each.id}  {each.started_utc[:16]}  {each.prompts} prompts  {each.done} done{failed}{skipped}{state}"
        )
        click.echo(f"  {', '.join(each.targets)}")
    if not summaries:
        click.echo("no runs yet; make one with: llmproxy bench --target UPSTREAM/MODEL")


@bench.command()
@config_options
@click.argument("name", metavar="[RUN]", required=False)
def show(name: str | None, config_path: Path | None, database: Path | None) -> None:
    """Show a run as a table: its id or the beginning of it; without one, the last.

    \b
    llmproxy bench show
    """
    _need_the_extra()
    _guarded(lambda: _show(_existing(config_path, database), name or "last", None))


@bench.command()
@config_options
@click.argument("name", metavar="[RUN]", required=False)
@click.option("--html", type=click.Path(path_type=Path), help="One self-contained page.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, allow_dash=True), help="All of it; - prints it.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, allow_dash=True), help="A line for each answer.")
def report(
    name: str | None,
    config_path: Path | None,
    database: Path | None,
    html: Path | None,
    json_file: Path | None,
    csv_file: Path | None,
) -> None:
    """Report on a run: as a table, a page, JSON or CSV.

    \b
    llmproxy bench report last --html report.html
    llmproxy bench report 01k8 --csv - > answers.csv
    """
    _need_the_extra()
    _guarded(lambda: _report(_existing(config_path, database), name, html, json_file, csv_file))


def _report(
    config: "Config", name: str | None, html: Path | None, json_file: Path | None, csv_file: Path | None
) -> None:
    if html is None and json_file is None and csv_file is None:
        _show(config, name or "last", None)
        return
    from llmproxy.bench.report import export

    found = _read(config, name)
    _write_page(found, html)
    for file, write in ((json_file, export.as_json), (csv_file, export.as_csv)):
        if file is not None and str(file) == "-":
            click.echo(write(found))
        elif file is not None:
            file.write_text(write(found), encoding="utf-8")
            click.echo(f"wrote {file}")


@bench.command()
@config_options
@click.argument("names", metavar="RUN…", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(names: tuple[str, ...], config_path: Path | None, database: Path | None, yes: bool) -> None:
    """Remove runs. The turns of their answers stay, as captured traffic.

    \b
    llmproxy bench rm 01k8x3
    """
    from llmproxy.bench.storage import Storage

    config = _existing(config_path, database)

    def remove() -> None:
        store = Storage(config.capture.database_path)
        try:
            for run_id in [store.find(name) for name in names]:
                if yes or click.confirm(f"Remove run {run_id}?"):
                    store.remove(run_id)
                    click.echo(f"removed {run_id}")
        finally:
            store.close()

    _guarded(remove)


def _guarded(function: Callable[[], None]) -> None:
    from llmproxy.bench.storage import NoRun

    try:
        function()
    except (NoRun, sqlite3.Error, OSError) as exc:
        fail(str(exc), EXIT_FAILED)


def _existing(config_path: Path | None, database: Path | None) -> "Config":
    config = load_config(config_path, capture__database=database)
    path = config.capture.database_path
    if not path.exists():
        fail(f"{path}: there is no database yet; it is made when the first exchange is ingested", EXIT_FAILED)
    return config


def _need_the_extra() -> None:
    import importlib.util

    missing = [
        name for name in ("rich", "jsonschema", "rapidfuzz", "genai_prices") if not importlib.util.find_spec(name)
    ]
    if missing:
        fail(f"bench needs {', '.join(missing)}; run: pip install 'llmproxy[bench]'", EXIT_WRONG_USAGE)
