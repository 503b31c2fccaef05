"""The commands over what was recorded."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmproxy.cli.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config
from llmproxy.cli.selecting import selection_options

if TYPE_CHECKING:
    from llmproxy.breakdown import By
    from llmproxy.config import Config
    from llmproxy.export.export import Format
    from llmproxy.store.selection import Selection


@click.command()
@config_options
@click.option("--drain", is_flag=True, help="Empty the spool and exit.")
@click.option("--supervised", is_flag=True, hidden=True)
def ingest(config_path: Path | None, database: Path | None, drain: bool, supervised: bool) -> None:
    """Move recorded exchanges from the spool into the database. `serve` does this by itself.

    \b
    llmproxy ingest --drain
    """
    from llmproxy.config import ConfigError
    from llmproxy.console import set_up_logging
    from llmproxy.ingester import follow, supervise
    from llmproxy.preflight import check_recordable

    set_up_logging()
    try:
        if supervised:
            sys.exit(supervise())
        capture = load_config(config_path, capture__database=database).capture
        check_recordable(capture)
        sys.exit(follow(capture, drain=drain))
    except ConfigError as exc:
        fail(str(exc), EXIT_WRONG_USAGE)


@click.command()
@config_options
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(["day", "model", "upstream", "client", "thread", "api"]),
    help="Calls, tokens, cost, latency and errors by this; repeatable.",
)
@click.option("--since", help="With --by, only what began since: 2026-01-31, 2026-01-31T12:00, 12h, 7d.")
@click.option("--top", type=click.IntRange(min=1), default=30, show_default=True, help="With --by, so many rows.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every row.")
def stats(
    config_path: Path | None,
    database: Path | None,
    by: tuple["By", ...],
    since: str | None,
    top: int,
    as_json: bool,
) -> None:
    """Count what was recorded: by outcome, by what could not be read and why, and what waits in the spool.

    \b
    llmproxy stats
    llmproxy stats --by day
    llmproxy stats --by upstream --by model --since 7d --json
    """
    from llmproxy.stats import collect, render
    from llmproxy.store.read_only import NothingCaptured

    if (since is not None or top != 30) and not by:
        fail("--since and --top go with --by", EXIT_WRONG_USAGE)
    config = load_config(config_path, capture__database=database)
    try:
        if by:
            click.echo(_break_down(config, by, since, top, as_json))
        else:
            click.echo(render(collect(config.capture), as_json=as_json))
    except NothingCaptured as exc:
        fail(str(exc), EXIT_FAILED)


def _break_down(config: "Config", by: tuple["By", ...], since: str | None, top: int, as_json: bool) -> str:
    import shutil

    from llmproxy.breakdown import break_down
    from llmproxy.breakdown_table import render

    breakdown = break_down(config, by, _moment(since))
    # Where nobody looks at it, such as in a pipe, nothing is cut.
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000
    return render(breakdown, as_json=as_json, top=top, width=width)


@click.command()
@config_options
@click.option("--since", help="Only what began since: 2026-01-31, 2026-01-31T12:00, 12h, 7d.")
def reingest(config_path: Path | None, database: Path | None, since: str | None) -> None:
    """Read again the exchanges whose raw bytes were kept: after an upgrade, more of them may be understood.

    \b
    llmproxy reingest --since 7d
    """
    import sqlite3

    from llmproxy.reingest import reingest as read_again

    capture = load_config(config_path, capture__database=database).capture
    _moment(since)
    try:
        done = read_again(capture, since)
    except (sqlite3.Error, OSError) as exc:
        fail(f"{capture.database_path}: {exc}", EXIT_FAILED)
    click.echo(f"{done.read} exchanges read again: {done.new_turns} new turns, {done.without_turn} without one still")


def _moment(since: str | None) -> str | None:
    """`--since` as the database has it; ends the program where it is no time."""
    from llmproxy.store.selection import parse_since

    try:
        return parse_since(since) if since is not None else None
    except ValueError:
        fail(f"--since {since!r} is no time; write 2026-01-31, 2026-01-31T12:00, 12h or 7d", EXIT_WRONG_USAGE)


@click.command()
@config_options
@click.option(
    "--format",
    "format",
    type=click.Choice(["openai-finetune", "openai-evals", "llm", "raw", "har"]),
    default="llm",
    show_default=True,
)
@click.option("--redact", "patterns", multiple=True, help="Replace what this regular expression matches; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: standard output.")
@selection_options
def export(
    config_path: Path | None,
    database: Path | None,
    format: "Format",
    patterns: tuple[str, ...],
    output: Path | None,
    selection: "Selection",
) -> None:
    """Write captured turns as JSON Lines, or as one HAR document.

    \b
    llmproxy export --format openai-finetune --model 'gpt-5*' --since 7d -o train.jsonl
    llmproxy export --query refund --redact '[\\w.]+@[\\w.]+'
    llmproxy export --format har --thread 01k9… -o thread.har
    """
    import os
    from contextlib import closing

    from llmproxy.export.export import write_turns
    from llmproxy.export.redaction import Redaction
    from llmproxy.store.read_only import NothingCaptured, open_read_only
    from llmproxy.store.selection import BadQuery, UnknownTurns, left_out, select

    config = load_config(config_path, capture__database=database)
    try:
        redaction = Redaction.of(patterns)
        with closing(open_read_only(config.capture.database_path)) as db:
            ids = select(db, selection)
            uncaptured = left_out(db, selection)
            if output is None:
                with click.open_file("-", "w", encoding="utf-8") as file:
                    done = write_turns(db, ids, format, redaction, file)
            else:
                private = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(private, "w", encoding="utf-8") as file:
                    done = write_turns(db, ids, format, redaction, file)
    except (BadQuery, UnknownTurns, ValueError) as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except (NothingCaptured, OSError) as exc:
        fail(str(exc), EXIT_FAILED)
    click.echo(f"{done.written} turns exported" + (f" to {output}" if output else ""), err=True)
    if uncaptured:
        click.echo(f"{uncaptured} left out: written by llm itself, or another answer of the same request", err=True)
    for reason, count in done.left_out.most_common():
        click.echo(f"{count} left out: {reason}", err=True)
    if done.without_bytes:
        click.echo(
            f"{done.without_bytes} without their bytes, which were not kept; set capture.raw: all for the next ones",
            err=True,
        )
