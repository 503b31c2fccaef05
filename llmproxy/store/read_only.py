"""Opening the database to read it: a connection that cannot write."""

import sqlite3
from pathlib import Path


class NothingCaptured(Exception):
    """The database is missing or holds nothing of ours; one line for the user."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, usable from any thread, one at a time. Raises `NothingCaptured`."""
    if not path.exists():
        raise NothingCaptured(f"{path}: there is no database yet; it is made when the first exchange is ingested")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, check_same_thread=False)
    try:
        connection.execute("select id from llmproxy_exchanges limit 1").fetchone()
    except sqlite3.DatabaseError as exc:
        connection.close()
        why = "holds nothing captured by llmproxy" if "no such table" in str(exc) else f"cannot be read: {exc}"
        raise NothingCaptured(f"{path}: {why}") from None
    return connection
