"""The events of a search-and-answer service, without I/O: bytes in, words and citations out.

An event is a line, `data: {'type': 'response', 'data': 'word'}` or `data: {'type': 'citation', 'data': 'id'}`, with
Python's quotes or JSON's. A line is an event by itself: such services do not always send the empty line that ends an
event of the standard (https://html.spec.whatwg.org/multipage/server-sent-events.html), and a word must not wait for it.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

_LINE_ENDS = re.compile(rb"\r\n|\n|\r")
# The fields of the standard that say nothing here, and comments, which begin with a colon.
_SAYS_NOTHING = ("", "event", "id", "retry")
_END = "[DONE]"

# A longer line is no word: it is skipped, and not kept while it comes.
MAX_LINE_BYTES = 1024 * 1024
# Python's parser takes far more memory than JSON's, and its depth is bounded by the length.
_MAX_LITERAL_CHARACTERS = 64 * 1024

Kind = Literal["response", "citation"]
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class ForeignEvent:
    """A word (or whatever piece) of the answer, or the id of a source."""

    kind: Kind
    text: str


class ForeignStream:
    """Bytes in, events out. Any split of the bytes gives the same events.

    `skipped`: how many lines so far could not be understood; `first_skipped`: the number of the first, from 1.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._too_long = False
        self._ended_with_cr = False
        self._number = 0
        self.skipped = 0
        self.first_skipped: int | None = None

    def feed(self, data: bytes) -> list[ForeignEvent]:
        """The events that `data` completes."""
        if self._ended_with_cr and data:
            data = data.removeprefix(b"\n")
            self._ended_with_cr = False
        self._ended_with_cr = self._ended_with_cr or data.endswith(b"\r")
        *ended, rest = _LINE_ENDS.split(data)
        events = []
        for piece in ended:
            self._add(piece)
            if event := self._take():
                events.append(event)
        self._add(rest)
        return events

    def finish(self) -> list[ForeignEvent]:
        """The event of a last line that was not ended."""
        event = self._take() if self._line else None
        return [event] if event else []

    def _add(self, piece: bytes) -> None:
        self._too_long = self._too_long or len(self._line) + len(piece) > MAX_LINE_BYTES
        if not self._too_long:
            self._line += piece

    def _take(self) -> ForeignEvent | None:
        line, too_long = self._line.decode("utf-8", "replace"), self._too_long
        self._line.clear()
        self._too_long = False
        self._number += 1
        field, _, value = line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").partition(":")
        field, value = field.strip(), value.strip()
        if not too_long and (field in _SAYS_NOTHING or (field == "data" and value in ("", _END))):
            return None
        event = _event(value) if field == "data" and not too_long else None
        if event is None:
            self.skipped += 1
            self.first_skipped = self.first_skipped or self._number
        return event


def _event(text: str) -> ForeignEvent | None:
    fields = _value(text)
    if not isinstance(fields, dict):
        return None
    kind, data = fields.get("type"), fields.get("data")
    if isinstance(data, int | float) and not isinstance(data, bool):
        try:
            data = str(data)  # ids are numbers at times, and so is a word
        except ValueError:  # a number of thousands of digits
            return None
    return ForeignEvent(kind, data) if kind in _KINDS and isinstance(data, str) else None


def _value(text: str) -> Any:
    """The value that JSON or a Python literal stands for; None for neither. Nothing is evaluated."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MAX_LITERAL_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an escape that Python does not know, once for each word
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
