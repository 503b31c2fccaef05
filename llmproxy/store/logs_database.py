"""The logs database as ingest has it: open for long, in one transaction after the other, and it may be replaced."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlite_utils import Database

from llmproxy.store.open_database import open_database


class StoreUnavailable(Exception):
    """The database cannot be written at the moment. The message says why; what waits stays in the spool."""


class LogsDatabase:
    """Opened when it is first needed, and again after it could not be written or was replaced by another file.

    - `full_sync`: a commit survives the machine's death, not only the process's.

    It may be used from several threads, one at a time.
    """

    def __init__(self, path: Path, *, full_sync: bool) -> None:
        self._path = path
        self._full_sync = full_sync
        self._db: Database | None = None
        self._file = (0, 0)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """The open database inside a transaction that is committed at the end. Raises `StoreUnavailable`."""
        with self._closed_where_it_fails():
            db = self._opened()
            connection = db.conn
            connection.execute("begin immediate")
            try:
                yield db
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
            connection.execute("commit")
            if self._file != _file(self._path):
                raise OSError("it was replaced while it was written")

    def open(self) -> None:
        """Make it, or migrate it, where it must be. Raises `StoreUnavailable`."""
        with self._closed_where_it_fails():
            self._opened()

    def _opened(self) -> Database:
        if self._db is None or self._file != _file(self._path):
            # Removed or replaced: what would be written to the old file would be lost.
            self.close()
            self._db = open_database(self._path, full_sync=self._full_sync)
            self._file = _file(self._path)
        return self._db

    @contextmanager
    def _closed_where_it_fails(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as exc:
            self.close()
            raise StoreUnavailable(f"the database {self._path} cannot be written: {exc}") from exc

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _file(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)
