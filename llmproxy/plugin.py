"""The plug-in for `llm`: its command `llm proxy …`, and models for `llm -m UPSTREAM/MODEL` and `llm -c`.

`llm` loads this at each of its starts: all that takes time is imported where it is needed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from llm import hookimpl

if TYPE_CHECKING:
    from llm.models import ModelWithAliases


class _Proxy(click.Command):
    """Stands for the commands of `llmproxy` until one of them is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        from llmproxy.cli import main

        return main.make_context(info_name, args, parent, **extra)


@hookimpl
def register_commands(cli: click.Group) -> None:
    """`llm proxy serve` and the others: the commands of `llmproxy`."""
    cli.add_command(_Proxy("proxy", help="Record what programs say to language models: serve, demo, stats and others."))


# Last, so that every name that another plug-in has stays its own.
@hookimpl(trylast=True)
def register_models(register: Callable[..., None], model_aliases: "list[ModelWithAliases]") -> None:
    """The models of the configuration's upstreams, to be called directly: the proxy need not run."""
    from llmproxy.registration import register_upstreams

    register_upstreams(register, model_aliases)
