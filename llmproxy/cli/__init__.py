"""The command line: parse, call, print. What a command does lives elsewhere, and is imported when it is called."""

import click

from llmproxy import __version__
from llmproxy.cli.benchmark import bench
from llmproxy.cli.recorded import export, ingest, reingest, stats
from llmproxy.cli.serving import check, demo, mock, serve

__all__ = ["main"]


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


for _command in (serve, demo, mock, check, ingest, stats, reingest, export, bench):
    main.add_command(_command)
