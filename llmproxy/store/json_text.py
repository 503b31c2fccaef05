"""JSON as the database holds it: without spaces, and each character as itself.

`llm` writes the same values with Python's defaults, where a Cyrillic letter takes six bytes in place of two and a
Chinese one six in place of three. It reads either.
"""

import json
from typing import Any


def json_text(value: Any) -> str:
    """A value as JSON that can be stored as UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape and UTF-8 cannot say
            return json.dumps(value, separators=(",", ":"))
    return text
