"""Opening the database to read it: a connection that cannot write."""

import sqlite3
from pathlib import Path


class NothingCaptured(Exception):
    """The database is missing or holds nothing of ours; one line for the user."""


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection to a database that need not hold anything. Raises `NothingCaptured` where there is none."""
    try:
        if not path.exists():
            raise NothingCaptured(f"{path}: there is no database yet; it is made when the first exchange is ingested")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=5, check_same_thread=False)
    except (sqlite3.OperationalError, PermissionError) as exc:  # a folder; one that may not be looked into
        raise NothingCaptured(f"{path}: cannot be opened: {exc}") from None


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, usable from any thread, one at a time. Raises `NothingCaptured`."""
    connection = connect_read_only(path)
    try:
        connection.execute("select id from llmproxy_exchanges limit 1").fetchone()
    except sqlite3.DatabaseError as exc:
        connection.close()
        why = "holds nothing captured by llmproxy" if "no such table" in str(exc) else f"cannot be read: {exc}"
        raise NothingCaptured(f"{path}: {why}") from None
    return connection
