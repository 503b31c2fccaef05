"""What all commands share: the options that name the configuration, reading it, and ending with a message."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from llmproxy.config import Config

F = TypeVar("F", bound=Callable[..., Any])

EXIT_FAILED = 1
EXIT_WRONG_USAGE = 2


def fail(message: str, code: int) -> NoReturn:
    """End the program with a message of one or two lines."""
    click.echo(f"llmproxy: {message}", err=True)
    sys.exit(code)


def config_options(function: F) -> F:
    """`--config` and `--database`."""
    for option in (
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path),
            envvar="LLMPROXY_CONFIG",
            help="YAML file; see config.example.yaml. No file is read unless it is named.",
        ),
        click.option("--database", type=click.Path(path_type=Path), help="SQLite file. Default: `llm logs path`."),
    ):
        function = option(function)
    return function


def load_config(config_path: Path | None, **flags: Any) -> "Config":
    """The configuration with the command's flags over it; ends the program where it is wrong."""
    from llmproxy.config import ConfigError, load

    nested: dict[str, Any] = {}
    for name, value in flags.items():
        if value is not None:
            *sections, key = name.split("__")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
    try:
        return load(config_path, nested)
    except ConfigError as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
