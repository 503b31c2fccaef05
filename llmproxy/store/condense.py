"""Condenses a response object against the messages that hold its text already, in the form that `llm` reads."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from condense_json import condense_json

from llmproxy.store.json_text import json_text

# What `condense_json` builds for each payload is a regular expression of all stored text, and its search grows with the
# square: 0.9 s were seen for a payload of 1 MB whose text the messages do not hold. Larger ones stay as they are.
SEARCHED_BYTES = 64 * 1024

# Single fields of these names mean something in the condensed form, and are escaped where the payload has them.
_MARKERS = ("$", "$r", "$raw")


def condensed(payload: Any, replacements: Mapping[str, Any]) -> str:
    """The JSON text of `condense_json(payload, replacements)`, sooner.

    Nearly always a stored text is a whole string of the payload, or is not in it: then no search is needed. Where it is
    a part of a longer string, or an object is to be replaced, `condense_json` itself does it, if the payload is short.
    """
    known: dict[str, str] = {}
    for key, value in replacements.items():
        if isinstance(value, str) and value:
            known.setdefault(value, key)
    shortest = min(map(len, known), default=0)
    strings = list(_strings(payload))
    if sum(map(len, strings)) <= SEARCHED_BYTES:  # else it is too long whatever its JSON looks like
        longer = [text for text in strings if len(text) > shortest and text not in known]
        inside = {text for text in known if any(text in string for string in longer)}
        containers = any(isinstance(value, dict | list) and value for value in replacements.values())
        if (inside or containers) and len(json.dumps(payload)) <= SEARCHED_BYTES:
            whole = {text for text in strings if text in known}
            found = {
                key: value
                for key, value in replacements.items()
                if not isinstance(value, str) or value in inside or value in whole
            }
            return json_text(condense_json(payload, found))
    return json_text(_replaced(payload, known))


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        key = known.get(value)
        return value if key is None else {"$": key}
    if isinstance(value, dict):
        fields = {name: _replaced(item, known) for name, item in value.items()}
        return {"$raw": fields} if len(fields) == 1 and next(iter(fields)) in _MARKERS else fields
    if isinstance(value, list):
        return [_replaced(item, known) for item in value]
    return value
