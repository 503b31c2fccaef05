"""The options that choose captured turns, the same for every command that takes some."""

import functools
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from llmproxy.store.selection import Selection

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("query", "model", "since", "thread", "upstream", "client", "tool", "limit", "sample", "seed")

_OPTIONS = (
    click.option("-q", "--query", help="Full text in prompt and answer, as for `llm logs -q`."),
    click.option("-m", "--model", help="Asked for, or the one that answered; * stands for anything: 'gpt-5*'."),
    click.option("--since", help="Only what began since: 2026-01-31, 2026-01-31T12:00, 12h, 7d."),
    click.option("--thread", help="Only this thread (conversation), by its id."),
    click.option("--upstream", help="Only what went to the upstream of this name."),
    click.option("--client", help="Only what the client of this name (security.clients) sent."),
    click.option("--tool", help="Only answers that call the tool of this name."),
    click.option("--limit", type=click.IntRange(min=1), help="The newest so many of these."),
    click.option("--sample", type=click.IntRange(min=1), help="Of these, so many at random."),
    click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same sample."),
    click.option("--ids", type=click.File("r"), help="A file of turn ids, one a line; - is standard input."),
)


def selection_options(function: F) -> F:
    """Give a command the options, packed into one argument: `selection`, a `store.selection.Selection`."""

    @functools.wraps(function)
    def command(*args: Any, ids: IO[str] | None, **options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _NAMES}
        return function(*args, selection=_selection(chosen, ids), **options)

    decorated: Any = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _selection(chosen: dict[str, Any], ids: IO[str] | None) -> "Selection":
    from llmproxy.store.selection import Selection, parse_since

    if chosen["since"] is not None:
        try:
            chosen["since"] = parse_since(chosen["since"])
        except ValueError:
            raise click.BadParameter(
                f"{chosen['since']!r} is no time; write 2026-01-31, 2026-01-31T12:00, 12h or 7d", param_hint="--since"
            ) from None
    if ids is not None:
        # The first word of a line, so that what other programs print after the id does no harm.
        chosen["ids"] = tuple(line.split()[0] for line in ids if line.strip())
    return Selection(**chosen)
