"""The commands that serve, and `check`, which looks whether that would work."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmproxy import __version__
from llmproxy.cli.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config

if TYPE_CHECKING:
    from llmproxy.config import Config


@click.command()
@config_options
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
    config = load_config(
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
    from llmproxy.console import set_up_logging
    from llmproxy.preflight import check_startable
    from llmproxy.serve import ServeError, end_well_when_told, listen, serve

    set_up_logging()
    end_well_when_told()
    try:
        check_startable(config)
        sock = listen(config)
        click.echo(_banner(config, sock.getsockname()[1]))
        serve(config, sock)
    except ConfigError as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except ServeError as exc:
        fail(str(exc), EXIT_FAILED)


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
        lines.append(f"  records into {config.capture.database_path} (read it with: {config.capture.logs_command})")
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


@click.command()
@config_options
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

    config = load_config(
        config_path,
        capture__database=database,
        port=port if port is not None else (0 if once else None),
        **_upstream_flags("mock"),
    )
    from llmproxy.config import ConfigError
    from llmproxy.console import set_up_logging
    from llmproxy.serve import ServeError

    set_up_logging(30)
    try:
        run(config, once=once)
    except ConfigError as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except (DemoError, ServeError) as exc:
        fail(str(exc), EXIT_FAILED)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8888, show_default=True)
def mock(host: str, port: int) -> None:
    """Run the mock provider alone: a server without a model that speaks OpenAI's and Anthropic's APIs.

    \b
    llmproxy mock
    curl http://127.0.0.1:8888/v1/chat/completions -d '{"messages": [{"role": "user", "content": "hi"}]}'
    """
    import uvicorn

    from llmproxy.config import Config, ConfigError
    from llmproxy.console import set_up_logging
    from llmproxy.inprocess.mock import create_app
    from llmproxy.serve import ServeError, listen
    from llmproxy.server.server import Server

    set_up_logging()
    try:
        sock = listen(Config(host=host, port=port))
    except ConfigError as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except ServeError as exc:
        fail(str(exc), EXIT_FAILED)
    click.echo(f"the mock provider listens on http://{_url_host(host)}:{sock.getsockname()[1]}/v1 (any key will do)")
    Server(uvicorn.Config(create_app({}), ws="none", log_config=None, access_log=False)).run(sockets=[sock])


@click.command()
@config_options
def check(config_path: Path | None, database: Path | None) -> None:
    """Read the configuration, reach each upstream, and say what is wrong and how to mend it.

    \b
    llmproxy check --config config.yaml
    """
    from llmproxy.check import check as run_checks

    config = load_config(config_path, capture__database=database)
    good = True
    for finding in run_checks(config):
        good = good and finding.good
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.place}: {finding.text}")
    sys.exit(0 if good else EXIT_FAILED)


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
    if ":" in upstream or "/" in upstream:  # which no name has
        fail(f"--upstream {upstream}: a base URL begins with http:// or https://", EXIT_WRONG_USAGE)
    return {"default_upstream": upstream}
