"""JSON as others send it: parsed with bounds, and read field by field without trust in its types."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from llmproxy.reconstruct.turn import NotReconstructed

# Python's own limit depends on how deep the caller's stack is already, and on Python's version. No API nests this deep.
MAX_DEPTH = 200

_MAX_NOTES = 64
_MAX_NOTE_CHARACTERS = 200

_SQLITE_INTEGER_MAX = 2**63 - 1


class Notes:
    """What was seen and not understood: short phrases, each once, in order. Bounded, since a peer chooses them."""

    def __init__(self, notes: Iterable[str] = ()) -> None:
        self._notes: dict[str, None] = {}
        self.extend(notes)

    def add(self, note: str) -> None:
        if len(self._notes) < _MAX_NOTES:
            self._notes.setdefault(note[:_MAX_NOTE_CHARACTERS])

    def extend(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.add(note)

    def __iter__(self) -> Iterator[str]:
        return iter(self._notes)


def _no_constant(name: str) -> None:
    """NaN and the infinities are not JSON (RFC 8259, section 6), yet Python servers send them: null is what is left."""
    return None


_WHITE_SPACE = " \t\n\r"  # RFC 8259, section 2
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse(text: bytes | str, what: str, number: Callable[[str], float] | None = None) -> Any:
    """The value of a JSON text. `what` names the text in the reason of the `NotReconstructed` that is raised else.

    `number` makes a float of the digits of each number with a point or an exponent.
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=number) if number else _DECODER
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise NotReconstructed(f"{what} is not UTF-8", str(error)) from error
    try:
        text = text.strip(_WHITE_SPACE)  # `decode` would look for it in Python
        value, end = decoder.raw_decode(text)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except RecursionError as error:
        raise NotReconstructed(f"{what} is nested too deeply") from error
    except ValueError as error:  # also int's limit of 4300 digits
        raise NotReconstructed(f"{what} is not JSON", str(error)) from error
    if too_deep(value, text):
        raise NotReconstructed(f"{what} is nested too deeply")
    return value


def too_deep(value: Any, text: str) -> bool:
    """Whether the value parsed from `text` is nested deeper than `MAX_DEPTH`."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def dump(value: Any) -> str:
    """The JSON text of a value that has to go where only text fits."""
    return json.dumps(value, ensure_ascii=False)


def mapping(value: Any, what: str, notes: Notes) -> Mapping[str, Any]:
    """`value` if it is an object; else an empty one, noted unless it was null."""
    if isinstance(value, dict):
        return value
    if value is not None:
        notes.add(f"{what} is not an object")
    return {}


def object_or_empty(value: Any) -> Mapping[str, Any]:
    """`mapping` where it is nothing to be noted that there is no object."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any, what: str, notes: Notes) -> list[Any]:
    """`value` if it is an array; else an empty one, noted unless it was null."""
    if isinstance(value, list):
        return value
    if value is not None:
        notes.add(f"{what} is not an array")
    return []


def objects(value: Any, what: str, notes: Notes) -> list[dict[str, Any]]:
    """The objects of an array. What else is in it is skipped and noted."""
    items = sequence(value, what, notes)
    found = [item for item in items if isinstance(item, dict)]
    if len(found) < len(items):
        notes.add(f"{what} holds what is not an object")
    return found


def string(value: Any, what: str, notes: Notes) -> str:
    """`value` if it is a string; else "", noted unless it was null."""
    if isinstance(value, str):
        return value
    if value is not None:
        notes.add(f"{what} is not a string")
    return ""


def nonempty(value: Any, what: str, notes: Notes) -> str | None:
    """`value` if it is a string that says something; else None, noted unless it was null or ""."""
    return string(value, what, notes) or None


def integer(value: Any, what: str, notes: Notes) -> int | None:
    """`value` if it is an integer that SQLite can hold; else None, noted unless it was null."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _SQLITE_INTEGER_MAX:
        return value
    if value is not None:
        notes.add(f"{what} is not an integer of 64 bits")
    return None


def without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null, "", [] or {}. `False` and 0 say something and stay."""
    return {key: value for key, value in fields.items() if value is not None and value not in ("", [], {})}


def namespaced(namespace: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """`provider_metadata` with the fields that say something, or None where none does."""
    kept = without_empty(fields)
    return {namespace: kept} if kept else None
