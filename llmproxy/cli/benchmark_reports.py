"""`llmproxy bench list|show|report|rm`: the runs that there are."""

import importlib.util
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmproxy.cli.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config

if TYPE_CHECKING:
    from llmproxy.bench.results import Run
    from llmproxy.config import Config


@click.command("list")
@config_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_runs(config_path: Path | None, database: Path | None, as_json: bool) -> None:
    """List the runs, the newest first.

    \b
    llmproxy bench list
    """
    _guarded(lambda: _list(_existing(config_path, database), as_json))


def _list(config: "Config", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from llmproxy.bench.storage import opened

    with opened(config) as store:
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


@click.command()
@config_options
@click.argument("name", metavar="[RUN]", required=False)
def show(name: str | None, config_path: Path | None, database: Path | None) -> None:
    """Show a run as a table: its id or the beginning of it; without one, the last.

    \b
    llmproxy bench show
    """
    need_the_extra()
    _guarded(lambda: show_run(_existing(config_path, database), name or "last", None))


@click.command()
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
    need_the_extra()
    _guarded(lambda: _report(_existing(config_path, database), name, html, json_file, csv_file))


def _report(
    config: "Config", name: str | None, html: Path | None, json_file: Path | None, csv_file: Path | None
) -> None:
    if html is None and json_file is None and csv_file is None:
        show_run(config, name or "last", None)
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


@click.command()
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
    from llmproxy.store.read_only import NothingCaptured, connect_read_only

    config = load_config(config_path, capture__database=database)
    path = config.capture.database_path
    try:
        connect_read_only(path).close()
    except NothingCaptured as exc:
        fail(str(exc), EXIT_FAILED)
    return config


def _read(config: "Config", name: str | None) -> "Run":
    from llmproxy.bench.costs import priced
    from llmproxy.bench.storage import opened
    from llmproxy.prices import Prices

    with opened(config) as store:
        return priced(store.read(store.find(name)), Prices(config))


def show_run(config: "Config", name: str, html: Path | None) -> None:
    """Print a run's table, and write its page to a file where one is named."""
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


def need_the_extra() -> None:
    """End the program where what `llmproxy bench` needs is not installed."""
    missing = [
        name
        for name in ("rich", "jinja2", "jsonschema", "rapidfuzz", "genai_prices")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        fail(
            f"bench needs {', '.join(missing)}; run, where llmproxy's sources are: pip install '.[bench]'",
            EXIT_WRONG_USAGE,
        )
