"""The simplest value that fits a JSON schema, for the arguments and the structured answers that the mock makes up."""

import math
from collections.abc import Mapping
from typing import Any

# RFC 3339, RFC 5321 and the like, by the names that JSON Schema gives them (validation, section 7.3).
_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class _Endless(Exception):
    """The schema contains itself, and on this way there is no end to it."""


def example_of(schema: Mapping[str, Any]) -> Any:
    """A value that fits the schema: each property, the first of each choice, as few items and as small a number as may
    be. Not looked at: `pattern`, `not`, `if`, `uniqueItems`. A schema that no finite value fits gives `None`."""
    try:
        return _example(schema, schema, frozenset())
    except _Endless:
        return None


def _example(schema: Any, root: Mapping[str, Any], inside: frozenset[str]) -> Any:
    if not isinstance(schema, Mapping):  # `true` admits everything
        return "text"
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in inside:
            raise _Endless
        return _example(_resolve(reference, root), root, inside | {reference})
    if "const" in schema:
        return schema["const"]
    if enum := _list(schema, "enum"):
        return enum[0]
    for key in ("anyOf", "oneOf"):
        if choices := _list(schema, key):
            return _first_finite(choices, root, inside)
    if _list(schema, "allOf"):
        return _all_of(schema, root, inside)
    kind = next(iter(_list(schema, "type")), schema.get("type"))
    if kind == "object" or "properties" in schema:
        return _object(schema, root, inside)
    if kind == "array":
        return _array(schema, root, inside)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "boolean":
        return True
    return None if kind == "null" else _string(schema)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What a pointer into the schema (`#/$defs/Step`) points to; anything at all where it points nowhere."""
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        # RFC 6901, section 4: ~1 first.
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _first_finite(choices: list[Any], root: Mapping[str, Any], inside: frozenset[str]) -> Any:
    for choice in choices:
        try:
            return _example(choice, root, inside)
        except _Endless:
            continue
    raise _Endless


def _all_of(schema: Mapping[str, Any], root: Mapping[str, Any], inside: frozenset[str]) -> Any:
    rest = {key: value for key, value in schema.items() if key != "allOf"}
    parts = [*schema["allOf"], *([rest] if "properties" in rest else [])]
    examples = [_example(part, root, inside) for part in parts]
    if not all(isinstance(example, dict) for example in examples):
        return examples[0]
    return {name: value for example in examples for name, value in example.items()}


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], inside: frozenset[str]) -> dict[str, Any]:
    properties = schema.get("properties")
    example = {}
    for name, value in properties.items() if isinstance(properties, Mapping) else ():
        try:
            example[name] = _example(value, root, inside)
        except _Endless:
            if name in _list(schema, "required"):
                raise
    return example


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], inside: frozenset[str]) -> list[Any]:
    least = schema.get("minItems")
    first = [_example(item, root, inside) for item in _list(schema, "prefixItems")]
    count = max(least if isinstance(least, int) else 0, 0 if first or schema.get("maxItems") == 0 else 1) - len(first)
    try:
        return first + [_example(schema.get("items"), root, inside)] * min(count, 100)
    except _Endless:
        if least:
            raise
        return first


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    low, high = _limit(schema, "minimum"), _limit(schema, "maximum")
    over, under = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
    lows = [bound for bound in (low, None if over is None else over + 1) if bound is not None]
    highs = [bound for bound in (high, None if under is None else under - 1) if bound is not None]
    number = min([max([1, *lows]), *highs])
    if any(number < bound for bound in lows) and over is not None and not whole:
        top = [bound for bound in (high, under) if bound is not None]
        number = (over + min(top)) / 2
    number = math.ceil(number) if whole else number
    step = _limit(schema, "multipleOf")
    return number + (-number) % step if step else number


def _string(schema: Mapping[str, Any]) -> str:
    text = _FORMATS.get(str(schema.get("format")), "text")
    least, most = _limit(schema, "minLength"), _limit(schema, "maxLength")
    if least is not None:
        text = text.ljust(min(int(least), 10_000), "t")
    return text if most is None else text[: max(int(most), 0)]


def _limit(schema: Mapping[str, Any], key: str) -> int | float | None:
    """A number of the schema; what is so large that arithmetic with it would fail counts as absent."""
    limit = schema.get(key)
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        return None
    return limit if -1e15 < limit < 1e15 else None


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
