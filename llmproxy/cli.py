"""The command line: parse, call, print. What a command does lives elsewhere."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmproxy import __version__
from llmproxy.cli_bench import bench
from llmproxy.command import EXIT_FAILED, EXIT_WRONG_USAGE
from llmproxy.command import config_options as _config_options
from llmproxy.command import fail as _fail
from llmproxy.command import load_config as _load
from llmproxy.selecting import selection_options

if TYPE_CHECKING:
    from llmproxy.breakdown import By
    from llmproxy.config import Config
    from llmproxy.export.export import Format
    from llmproxy.store.selection import Selection


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmproxy")
def main() -> None:
    """The flight recorder for programs that talk to language models.

    \b
    Try it:     llmproxy demo
    Use it:     llmproxy serve
                export OPENAI_BASE_URL=http://127.0.0.1:11435/v1
    Read it:    llm logs
    """


main.add_command(bench)


def _upstream_flags(upstream: str | None) -> dict[str, Any]:
    """`--upstream mock`, `--upstream URL` or the name of one in the configuration, as configuration."""
    if upstream is None:
        return {}
    if upstream == "mock":
        return {
            "upstreams": {"mock": {"app": "llmproxy.inprocess.mock:create_app"}},
            "default_upstream": "mock",
        }
    if "://" in upstream:
        return {"upstreams": {"default": {"base_url": upstream}}, "default_upstream": "default"}
    return {"default_upstream": upstream}


@main.command()
@_config_options
@click.option("--upstream", help="Provider's base URL, the name of an upstream of the configuration, or `mock`.")
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on. Default: 11435.")
@click.option("--workers", type=int, help="Server processes. Default: 1.")
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond loopback without asking for clients' keys.")
def serve(
    config_path: Path | None,
    database: Path | None,
    upstream: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    insecure: bool | None,
) -> None:
    """Forward to the providers and record every conversation.

    \b
    llmproxy serve
    llmproxy serve --upstream https://api.deepseek.com/v1
    llmproxy serve --config config.yaml --port 8080
    """
    config = _load(
        config_path,
        capture__database=database,
        host=host,
        port=port,
        workers=workers,
        security__insecure=insecure,
        **_upstream_flags(upstream),
    )
    _serve(config)


def _serve(config: "Config") -> None:
    from llmproxy.config import ConfigError
    from llmproxy.serve import ServeError, check_startable, end_well_when_told, listen, serve, set_up_logging

    set_up_logging()
    end_well_when_told()
    try:
        check_startable(config)
        sock = listen(config)
        click.echo(_banner(config, sock.getsockname()[1]))
        serve(config, sock)
    except ConfigError as exc:
        _fail(str(exc), EXIT_WRONG_USAGE)
    except ServeError as exc:
        _fail(str(exc), EXIT_FAILED)


def _banner(config: "Config", port: int) -> str:
    from llmproxy.upstreams import outward_proxy

    address = f"http://{_url_host(config.host)}:{port}"
    width = max(len(name) for name in config.upstreams) + 1
    lines = [f"llmproxy {__version__} listens on {address}"]
    for name, upstream in config.upstreams.items():
        path = "/v1" if name == config.default_upstream_name else f"/{name}/v1"
        through = outward_proxy(upstream)
        lines.append(
            f"  {name:<{width}} {address}{path} → {upstream.base_url or upstream.app}"
            + (" through the environment's proxy" if through else "")
        )
    if config.capture.active:
        lines.append(f"  records into {config.capture.database_path} (read it with: llm logs)")
    elif config.capture.switched_off_by_llm:
        lines.append("  records nothing, because of `llm logs off`; run `llm logs on`, or set capture.enabled: true")
    else:
        lines.append("  records nothing (capture.enabled: false)")
    if config.security.insecure:
        lines.append("  asks nobody for a key (--insecure)")
    lines.append(f"  export OPENAI_BASE_URL={address}/v1")
    return "\n".join(lines)


def _url_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@main.command()
@_config_options
@click.option("--port", type=int, help="Port to listen on. Default: 11435, or a free one with --once.")
@click.option("--once", is_flag=True, help="Exit after the demonstration.")
def demo(config_path: Path | None, database: Path | None, port: int | None, once: bool) -> None:
    """Show the main job with the built-in mock provider: no key, no network.

    Serves in front of the mock, sends one streamed chat through a real socket, shows the answer arriving and the
    conversation as it was recorded, and goes on serving.

    \b
    llmproxy demo
    llmproxy demo --once
    """
    from llmproxy.demo import DemoError, run

    config = _load(
        config_path,
        capture__database=database,
        port=port if port is not None else (0 if once else None),
        **_upstream_flags("mock"),
    )
    from llmproxy.config import ConfigError
    from llmproxy.serve import ServeError, set_up_logging

    set_up_logging(30)
    try:
        run(config, once=once)
    except ConfigError as exc:
        _fail(str(exc), EXIT_WRONG_USAGE)
    except (DemoError, ServeError) as exc:
        _fail(str(exc), EXIT_FAILED)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8888, show_default=True)
def mock(host: str, port: int) -> None:
    """Run the mock provider alone: an OpenAI-compatible server without a model.

    \b
    llmproxy mock
    curl http://127.0.0.1:8888/v1/chat/completions -d '{"messages": [{"role": "user", "content": "hi"}]}'
    """
    import uvicorn

    from llmproxy.config import Config, ConfigError
    from llmproxy.inprocess.mock import create_app
    from llmproxy.serve import ServeError, Server, listen, set_up_logging

    set_up_logging()
    try:
        sock = listen(Config(host=host, port=port))
    except ConfigError as exc:
        _fail(str(exc), EXIT_WRONG_USAGE)
    except ServeError as exc:
        _fail(str(exc), EXIT_FAILED)
    click.echo(f"the mock provider listens on http://{_url_host(host)}:{sock.getsockname()[1]}/v1 (any key will do)")
    Server(uvicorn.Config(create_app({}), ws="none", log_config=None, access_log=False)).run(sockets=[sock])


@main.command()
@_config_options
@click.option("--drain", is_flag=True, help="Empty the spool and exit.")
@click.option("--supervised", is_flag=True, hidden=True)
def ingest(config_path: Path | None, database: Path | None, drain: bool, supervised: bool) -> None:
    """Move recorded exchanges from the spool into the database. `serve` does this by itself.

    \b
    llmproxy ingest --drain
    """
    from llmproxy.config import ConfigError
    from llmproxy.ingester import follow, supervise
    from llmproxy.serve import check_recordable, set_up_logging

    set_up_logging()
    try:
        if supervised:
            sys.exit(supervise())
        capture = _load(config_path, capture__database=database).capture
        check_recordable(capture)
        sys.exit(follow(capture, drain=drain))
    except ConfigError as exc:
        _fail(str(exc), EXIT_WRONG_USAGE)


@main.command()
@_config_options
def check(config_path: Path | None, database: Path | None) -> None:
    """Read the configuration, reach each upstream, and say what is wrong and how to mend it.

    \b
    llmproxy check --config config.yaml
    """
    from llmproxy.check import check as run_checks

    config = _load(config_path, capture__database=database)
    good = True
    for finding in run_checks(config):
        good = good and finding.good
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.place}: {finding.text}")
    sys.exit(0 if good else EXIT_FAILED)


@main.command()
@_config_options
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
    from llmproxy.stats import NoDatabase, collect, render

    if (since is not None or top != 30) and not by:
        _fail("--since and --top go with --by", EXIT_WRONG_USAGE)
    config = _load(config_path, capture__database=database)
    try:
        if by:
            click.echo(_break_down(config, by, since, top, as_json))
        else:
            click.echo(render(collect(config.capture), as_json=as_json))
    except NoDatabase as exc:
        _fail(str(exc), EXIT_FAILED)


def _break_down(config: "Config", by: tuple["By", ...], since: str | None, top: int, as_json: bool) -> str:
    import shutil

    from llmproxy.breakdown import break_down
    from llmproxy.breakdown_table import render
    from llmproxy.store.selection import parse_since

    try:
        earliest = parse_since(since) if since is not None else None
    except ValueError:
        _fail(f"--since {since!r} is no time; write 2026-01-31, 2026-01-31T12:00, 12h or 7d", EXIT_WRONG_USAGE)
    breakdown = break_down(config, by, earliest)
    # Where nobody looks at it, such as in a pipe, nothing is cut.
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 10_000
    return render(breakdown, as_json=as_json, top=top, width=width)


@main.command()
@_config_options
@click.option("--since", help="Only what began since: 2026-01-31, 2026-01-31T12:00, 12h, 7d.")
def reingest(config_path: Path | None, database: Path | None, since: str | None) -> None:
    """Read again the exchanges whose raw bytes were kept: after an upgrade, more of them may be understood.

    \b
    llmproxy reingest --since 7d
    """
    import sqlite3

    from llmproxy.reingest import reingest as read_again
    from llmproxy.store.selection import parse_since

    capture = _load(config_path, capture__database=database).capture
    try:
        if since is not None:
            parse_since(since)
    except ValueError:
        _fail(f"--since {since!r} is no time; write 2026-01-31, 2026-01-31T12:00, 12h or 7d", EXIT_WRONG_USAGE)
    try:
        done = read_again(capture, since)
    except (sqlite3.Error, OSError) as exc:
        _fail(f"{capture.database_path}: {exc}", EXIT_FAILED)
    click.echo(f"{done.read} exchanges read again: {done.new_turns} new turns, {done.without_turn} without one still")


@main.command()
@_config_options
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
    from llmproxy.store.selection import BadQuery, UnknownTurns, select

    config = _load(config_path, capture__database=database)
    try:
        redaction = Redaction.of(patterns)
        with closing(open_read_only(config.capture.database_path)) as db:
            ids = select(db, selection)
            if output is None:
                with click.open_file("-", "w", encoding="utf-8") as file:
                    done = write_turns(db, ids, format, redaction, file)
            else:
                private = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(private, "w", encoding="utf-8") as file:
                    done = write_turns(db, ids, format, redaction, file)
    except (BadQuery, UnknownTurns, ValueError) as exc:
        _fail(str(exc), EXIT_WRONG_USAGE)
    except (NothingCaptured, OSError) as exc:
        _fail(str(exc), EXIT_FAILED)
    click.echo(f"{done.written} turns exported" + (f" to {output}" if output else ""), err=True)
    for reason, count in done.left_out.most_common():
        click.echo(f"{count} left out: {reason}", err=True)
    if done.without_bytes:
        click.echo(
            f"{done.without_bytes} without their bytes, which were not kept; set capture.raw: all for the next ones",
            err=True,
        )
