"""The text of a JSON object that comes in pieces."""

import re

from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.text import parse_object

_STRUCTURE = re.compile(r'\\.|["{}]', re.DOTALL)


class JSONObjectText:
    """Text in pieces that tells whether it is an object by now. Each piece is looked at once, if that is asked."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._scanned = 0  # of the pieces
        self._depth = 0
        self._in_string = False
        self._carried = ""  # a backslash at a piece's end, which belongs to what follows
        self._whole: bool | None = None  # once its first brace has been closed

    def append(self, piece: str) -> None:
        self._pieces.append(piece)

    def __str__(self) -> str:
        return "".join(self._pieces)

    def is_whole(self) -> bool:
        """Whether the text so far is an object. What follows the brace that ends it can only unmake that."""
        for at in range(self._scanned, len(self._pieces)):
            if self._whole is None:
                if self._closes(self._pieces[at]):
                    self._whole = parse_object("".join(self._pieces[: at + 1]), Notes()) is not None
            elif self._whole:
                self._whole = not self._pieces[at].strip(" \t\r\n")
        self._scanned = len(self._pieces)
        return self._whole is True

    def _closes(self, piece: str) -> bool:
        piece = self._carried + piece
        self._carried = ""
        if (len(piece) - len(piece.rstrip("\\"))) % 2:
            piece, self._carried = piece[:-1], "\\"
        for token in _STRUCTURE.finditer(piece):
            match token[0]:
                case '"':
                    self._in_string = not self._in_string
                case "{" if not self._in_string:
                    self._depth += 1
                case "}" if not self._in_string:
                    self._depth -= 1
                    if self._depth <= 0:
                        return True
        return False
