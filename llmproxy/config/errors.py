"""What is wrong with a configuration, said to the user."""

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """The configuration cannot be used. The message names the place and the mend, in one or two lines."""


def no_such(name: str, known: Iterable[str]) -> str:
    """That there is no such name, and which was meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"there is no {name!r}; " + (f"did you mean {near[0]!r}?" if near else "there is: " + ", ".join(names))
