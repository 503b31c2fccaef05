"""JSON as the database holds it: without spaces, and each character as itself.

`llm` writes the same values with Python's defaults, where a Cyrillic letter takes six bytes in place of two and a
Chinese one six in place of three. It reads either.
"""

import json
from typing import Any

# `json.dumps` makes one for each call that has arguments.
_SHORT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ESCAPED = json.JSONEncoder(separators=(",", ":"))


def json_text(value: Any) -> str:
    """A value as JSON that can be stored as UTF-8."""
    text = _SHORT.encode(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape and UTF-8 cannot say
            return _ESCAPED.encode(value)
    return text
