"""Header fields, stored once: those of one program, or of one provider, hardly differ from an exchange to the next.

An exchange names a set that has the same names in the same order, and holds what its own values are where they are
others. What differs each time (Content-Length, Date, ids, rates left) is every provider's own and need not be known:
the first that came is the set. The view `llmproxy_exchanges` puts the fields together again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache

from llmproxy.headers import Header
from llmproxy.store.json_text import json_text

Fields = Sequence[Sequence[str]]

# Two programs may send the same names; more sets than these are not looked at, nor made.
_SETS = 8


class HeaderSets:
    """Finds and makes sets in the tables of one database, inside the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def columns(self, which: str, headers: Sequence[Header]) -> dict[str, int | str | None]:
        """The two columns of `llmproxy_exchange_rows` that hold the fields of a `request` or a `response`."""
        names = hashlib.blake2b(b"\n".join([name for name, _ in headers]), digest_size=8).digest()
        fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
        id, changed = self._shared(names, fields)
        return {f"{which}_header_set": id, f"{which}_headers_changed": changed}

    def _shared(self, names: bytes, fields: Fields) -> tuple[int, str | None]:
        """A set, and the values that differ from it: a JSON object by the field's place, None where none does."""
        whole = json_text(fields)
        sets = self._db.execute(
            f"select id, fields from llmproxy_header_sets where names = ? order by id limit {_SETS}", [names]
        ).fetchall()
        best: tuple[int, str] | None = None
        for id, text in sets:
            if text == whole:
                return id, None
            changed = _changed(_read(text), fields)
            if best is None or len(changed) < len(best[1]):
                best = id, changed
        if best is not None and (len(best[1]) * 2 <= len(whole) or len(sets) == _SETS):
            return best
        made = self._db.execute("insert into llmproxy_header_sets (names, fields) values (?, ?)", [names, whole])
        assert made.lastrowid is not None
        return made.lastrowid, None


def _changed(shared: Fields, fields: Fields) -> str:
    pairs = enumerate(zip(shared, fields, strict=True))
    return json_text({str(at): own[1] for at, (other, own) in pairs if other[1] != own[1]})


# The same few again and again.
@lru_cache(maxsize=64)
def _read(text: str) -> Fields:
    fields: Fields = json.loads(text)
    return fields
