"""Making values storable: what JSON can say and neither UTF-8 nor SQLite can hold."""

import dataclasses
import json
import math
import re
from typing import Any, TypeVar

from llmproxy.reconstruct.json_values import Notes, parse, too_deep

T = TypeVar("T")

# What is no escape may match too (a path that ends in a backslash): that only costs time.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD]")
_SURROGATE_ESCAPE_IN_TEXT = re.compile(r"\\u[dD]")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is no number that can be kept")
    return value


_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def storable(value: T, notes: Notes) -> T:
    """`value` (JSON, and dataclasses, tuples and lists of it) with all strings encodable and all numbers finite.

    A JSON escape may stand for half a surrogate pair. Where both halves are there (a delta ended between them) they are
    joined; a lone one becomes U+FFFD, noted. NUL is kept. What needs no change is returned as it is, not copied.
    """
    return _storable(value, notes)  # type: ignore[no-any-return]


def parse_storable(text: bytes, what: str, notes: Notes) -> Any:
    """`parse`, and `storable` where there is need: to look at each value takes longer than to parse them."""
    infinite: list[str] = []

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            infinite.append(digits)
        return value

    value = parse(text, what, number)
    return storable(value, notes) if infinite or _SURROGATE_ESCAPE.search(text) else value


def parse_object(text: str, notes: Notes) -> dict[str, Any] | None:
    """The object, `storable`, of a strictly valid JSON text inside another JSON text (arguments, metadata).

    None where it is none, or nested too deeply. What is storable as text need not be when it is parsed: its own escapes
    are undone only here.
    """
    try:
        value = _STRICT_DECODER.decode(text)
    except (RecursionError, ValueError):
        return None
    if not isinstance(value, dict) or too_deep(value, text):
        return None
    return storable(value, notes) if _SURROGATE_ESCAPE_IN_TEXT.search(text) else value


def storable_text(text: str, notes: Notes) -> str:
    """`storable` for one string."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if "\ufffd" in joined and joined.count("\ufffd") > text.count("\ufffd"):
            notes.add("lone surrogate replaced")
        return joined


def _storable(value: Any, notes: Notes) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else storable_text(value, notes)
    if isinstance(value, float):
        # 1e999 is valid JSON and infinite in Python, which would write it as no JSON at all.
        if math.isfinite(value):
            return value
        notes.add("infinite number replaced by null")
        return None
    if isinstance(value, dict):
        fields = {_storable(key, notes): _storable(item, notes) for key, item in value.items()}
        return fields if _changed(value.keys(), fields.keys()) or _changed(value.values(), fields.values()) else value
    if isinstance(value, list | tuple):
        items = [_storable(item, notes) for item in value]
        return type(value)(items) if _changed(value, items) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        attributes = {name.name: getattr(value, name.name) for name in dataclasses.fields(value)}
        kept = _storable(attributes, notes)
        return value if kept is attributes else dataclasses.replace(value, **kept)
    return value


def _changed(before: Any, after: Any) -> bool:
    # Keys that became equal shorten the second of them.
    return len(before) != len(after) or any(old is not new for old, new in zip(before, after, strict=True))
