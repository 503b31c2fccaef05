"""`llmproxy bench`: its command line."""

import importlib.util
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click_default_group import DefaultGroup

from llmproxy.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config
from llmproxy.selecting import selection_options

if TYPE_CHECKING:
    from llmproxy.bench.estimate import Estimate
    from llmproxy.bench.results import Run
    from llmproxy.config import Config
    from llmproxy.store.selection import Selection


@click.group(cls=DefaultGroup, default="run", default_if_no_args=False, invoke_without_command=False)
def bench() -> None:
    """Run your own conversations again, against other models, and compare.

    \b
    llmproxy bench --target deepseek/deepseek-chat --as-recorded --sample 50
    llmproxy bench report last --html report.html
    llmproxy bench list

    `llmproxy bench run --help` shows all options of a run.
    """


@bench.command("run")
@config_options
@selection_options
@click.option(
    "--target",
    "-t",
    "targets",
    multiple=True,
    help="UPSTREAM/MODEL[,option=value…], or a YAML file of them. Repeat it. llm/MODEL is any model of `llm`.",
)
@click.option("--as-recorded", is_flag=True, help="The recorded answers too, as the baseline.")
@click.option("--repeat", type=click.IntRange(min=1), help="Ask each prompt so often. Default: 1.")
@click.option("--concurrency", "-j", type=click.IntRange(1, 1000), help="Calls at a time. Default: 4.")
@click.option("--rate", help="Calls begun at most: 5 or 5/s in a second, 60/m in a minute.")
@click.option("--retries", type=click.IntRange(min=0), help="For 429 and 5xx. Default: 4.")
@click.option(
    "--max-cost", type=click.FloatRange(min=0, min_open=True), help="Begin no call that may cost more (dollars)."
)
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
def run(selection: "Selection", config_path: Path | None, database: Path | None, **given: Any) -> None:
    """Run captured turns against other models. Without options that choose some, all of them.

    \b
    llmproxy bench --target openai/gpt-4o-mini --target deepseek/deepseek-chat,temperature=0 --as-recorded
    llmproxy bench --target mock/mock-small --query invoice --sample 100 --repeat 3 -j 8 --max-cost 2
    llm logs --json | jq -r '.[].id' | llmproxy bench --target mock/mock-large --ids -
    llmproxy bench --resume last
    """
    _need_the_extra()
    from llmproxy.bench.run_lock import RunIsBusy
    from llmproxy.bench.storage import NoRun
    from llmproxy.config import ConfigError
    from llmproxy.serve import check_recordable, set_up_logging

    set_up_logging(40)
    config = load_config(config_path, capture__database=database)
    try:
        check_recordable(config.capture)
        _run(config, selection, given)
    except (ConfigError, ValueError) as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except (NoRun, RunIsBusy, sqlite3.Error, OSError) as exc:
        fail(str(exc), EXIT_FAILED)


def _run(config: "Config", selection: "Selection", given: dict[str, Any]) -> None:
    from llmproxy.bench import benchmark, prepare, progress, targets
    from llmproxy.bench.run_lock import locked
    from llmproxy.bench.storage import opened
    from llmproxy.serve import check_startable
    from llmproxy.store.selection import Selection

    live = targets.parse_targets(given["targets"], config)
    with ExitStack() as until_it_ends:
        with opened(config) as store:
            if given["resume"] is not None:
                if live or selection != Selection() or given["as_recorded"]:
                    raise prepare.WrongUsage("--resume goes on with a run's own targets and prompts; leave others out")
                run_id = store.find(given["resume"])
                before = store.read(run_id, results=False)
                settings, chosen = prepare.settings_of(given, before.settings), before.targets
            else:
                if not live:
                    first = next(iter(config.upstreams))
                    raise prepare.WrongUsage(f"--target is needed: UPSTREAM/MODEL, such as {first}/MODEL")
                chosen = (*((targets.baseline(),) if given["as_recorded"] else ()), *live)
                settings = prepare.settings_of(given, {"seed": selection.seed, "selection": prepare.said(selection)})
                turn_ids = prepare.turn_ids_of(store, selection)
            judge = targets.parse_targets([settings.judge], config) if settings.judge else ()
            config = targets.with_built_in(config, [target.upstream for target in (*chosen, *judge)])
            if given["dry_run"]:
                ids_of = [prompt.turn_id for prompt in before.prompts] if given["resume"] is not None else turn_ids
                for estimate in benchmark.estimates(config, store, ids_of, chosen, settings.repeat):
                    _show_estimate(estimate, len(ids_of))
                return
            check_startable(config)
            prepare.check_prices(config, (*chosen, *judge), settings)
            if given["resume"] is None:
                run_id = benchmark.new_run(store, turn_ids, chosen, settings).id
            until_it_ends.enter_context(locked(config.capture.database_path, run_id))
            if given["resume"] is not None:
                store.end(run_id, ended=False)
                if given["retry_failed"]:
                    store.forget_failed(run_id)
        ended = progress.run_with_progress(config, run_id, settings)
    _show(config, run_id, given["html"])
    if ended.stopped == "max_cost":
        fail(
            f"stopped before more than ${settings.max_cost:g} were spent (${ended.spent:.4f} were);"
            f" go on with: llmproxy bench --resume {run_id} --max-cost MORE",
            EXIT_FAILED,
        )
    if ended.stopped is not None or ended.missing:
        fail(f"{ended.missing} answers are missing; go on with: llmproxy bench --resume {run_id}", EXIT_FAILED)


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
    from llmproxy.bench.costs import priced
    from llmproxy.bench.storage import opened
    from llmproxy.prices import Prices

    with opened(config) as store:
        return priced(store.read(store.find(name)), Prices(config))


def _show(config: "Config", name: str, html: Path | None) -> None:
    from rich.console import Console

    found = _read(config, name)
    from llmproxy.bench.report import terminal

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

    from llmproxy.bench.storage import opened

    with opened(_existing(config_path, database)) as store:
        summaries = store.summaries()
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
    from llmproxy.bench.storage import opened

    def remove() -> None:
        with opened(_existing(config_path, database)) as store:
            for run_id in [store.find(name) for name in names]:
                if yes or click.confirm(f"Remove run {run_id}?"):
                    store.remove(run_id)
                    click.echo(f"removed {run_id}")

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
    missing = [
        name
        for name in ("rich", "jinja2", "jsonschema", "rapidfuzz", "genai_prices")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        fail(f"bench needs {', '.join(missing)}; run: pip install 'llmproxy[bench]'", EXIT_WRONG_USAGE)
