"""Taking private text out of what is exported."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True)
class Redaction:
    """Regular expressions whose matches are replaced, in every text."""

    patterns: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, patterns: Sequence[str]) -> "Redaction":
        """Raises `ValueError` for what is no regular expression, or matches everywhere."""
        compiled = []
        for pattern in patterns:
            try:
                compiled.append(re.compile(pattern))
            except re.error as exc:
                raise ValueError(f"{pattern!r} is no regular expression: {exc}") from None
            if compiled[-1].match(""):
                raise ValueError(f"{pattern!r} matches the empty text, and so everywhere")
        return cls(tuple(compiled))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def text(self, text: str) -> str:
        for pattern in self.patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def value(self, value: Any) -> Any:
        """JSON with the matches in its texts replaced; the keys of objects stay."""
        if not self.patterns:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return {key: self.value(item) for key, item in value.items()} if isinstance(value, dict) else value
