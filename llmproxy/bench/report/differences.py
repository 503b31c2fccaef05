"""Two texts compared word by word."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

# Chinese and Japanese put no space between words, so their characters are compared. A fence of code is one word.
_CHARACTER = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_WORD = re.compile(rf"\s*(?:`{{3,}}|{_CHARACTER}|(?:(?!{_CHARACTER})\w)+|[^\w\s])|\s+$")

Kind = Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of words; `code` where it stands in a fenced block of code."""

    kind: Kind
    text: str
    code: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """`pieces` without the removed ones are the new text. `similarity` is the share of words in common, 0 to 1."""

    pieces: tuple[Piece, ...]
    similarity: float


def words_differ(before: str, after: str) -> Difference:
    """What was added to and removed from `before` to give `after`. Changes of white space do not count."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new])
    words: list[tuple[Kind, str]] = []
    same = 0
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            same += j2 - j1
            words += [("same", word) for word in new[j1:j2]]
        else:
            words += [("removed", word) for word in old[i1:i2]]
            words += [("added", word) for word in new[j1:j2]]
    longest = len(old) + len(new)
    return Difference(_pieces(words), 2 * same / longest if longest else 1.0)


def as_it_is(text: str) -> tuple[Piece, ...]:
    """A text compared with nothing."""
    return _pieces([("same", word) for word in _WORD.findall(text)])


def _pieces(words: list[tuple[Kind, str]]) -> tuple[Piece, ...]:
    pieces = []
    for (kind, code), group in groupby(_fenced(words), key=lambda piece: (piece[0], piece[2])):
        text = "".join(word for _, word, _ in group)
        if kind == "added":
            # White space before a word belongs to it here, but is not what was added.
            bare = text.lstrip()
            if len(bare) < len(text):
                pieces.append(Piece("same", text[: len(text) - len(bare)], code))
            text = bare
        if text:
            pieces.append(Piece(kind, text, code))
    return tuple(pieces)


def _fenced(words: list[tuple[Kind, str]]) -> Iterator[tuple[Kind, str, bool]]:
    inside = False
    for kind, word in words:
        fence = kind != "removed" and word.lstrip().startswith("```")
        yield kind, word, inside or fence
        if fence:
            inside = not inside
