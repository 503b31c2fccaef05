"""Opening the logs database, made and migrated where it must be, beside an `llm` that may do the same.

`llm` migrates whatever it is about to write to, step by step and without a lock: two that do it at once meet "duplicate
column name". So a new database gets its name when it is whole, and where another process is migrating, it is let
finish.
"""

import errno
import glob
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from llm.logs import LogStore
from llm.migrations import MIGRATIONS
from sqlite_utils import Database

from llmproxy.capture.spool import make_folder
from llmproxy.store.tables import migrations

CACHE_KIB = 48 * 1024
# The last page of each large row is half empty, and `llm` has sixty tables and indices that begin with a page each.
PAGE_BYTES = 1024
# SQLite's own 1,000 are meant for pages of 4 KB: what is written twice in a megabyte is copied twice.
CHECKPOINT_PAGES = 4000
# Who has not gone on with migrating for so long was killed, and who goes on for so long is not migrating.
STILL_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.02
# No database takes so long to make: who began it was killed.
ABANDONED_SECONDS = 60.0


def open_database(path: Path, *, full_sync: bool = False) -> Database:
    """The logs database, in WAL mode, so that readers never wait for us.

    - `full_sync`: a commit survives the machine's death, not only the process's.

    It may be used from several threads, one at a time. Raises `sqlite3.Error` or `OSError`.
    """
    # A link may point to where no file is yet: it is made there, since a link that dangles cannot be replaced.
    path = Path(os.path.realpath(path))
    make_folder(path.parent)
    if not path.exists():
        _make(path)
    if not os.access(path, os.W_OK):
        # SQLite would open it all the same, and make its -wal and -shm read-only too, for as long as they live.
        raise PermissionError(errno.EACCES, "it is read-only")
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
    try:
        _let_others_migrate(connection)
        connection.execute("pragma journal_mode = wal")
        # Look-ups of threads jump about in the indices: more of these fit than into SQLite's 2 MB.
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        connection.execute(f"pragma wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"pragma synchronous = {'full' if full_sync else 'normal'}")
        return _migrated(connection)
    except BaseException:
        connection.close()
        raise


def _make(path: Path) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        memory.execute(f"pragma page_size = {PAGE_BYTES}")
        content = _migrated(memory).conn.serialize()
    for left in ("-wal", "-shm", "-journal"):
        # A removed database's: SQLite would take them for the new one's, and spoil it with them.
        path.with_name(path.name + left).unlink(missing_ok=True)
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}-*"):
        with suppress(FileNotFoundError):
            if time.time() - unfinished.stat().st_mtime > ABANDONED_SECONDS:
                unfinished.unlink()
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            pass  # `llm` came first: it is opened as it is
        except OSError:
            # A file system without hard links (link(2): EPERM, and others in use): it is made in its place.
            path.touch(mode=0o600)


def _migrated(connection: sqlite3.Connection) -> Database:
    db = Database(connection)
    # In one transaction: none of `llm`'s migrations can be made again after one that was killed half-way.
    connection.execute("begin immediate")
    LogStore(db)
    migrations.apply(db)
    if connection.in_transaction:
        connection.execute("commit")
    return db


def _let_others_migrate(connection: sqlite3.Connection) -> None:
    """Wait while `llm`'s migrations are not all there and others write."""
    begun = changed = time.monotonic()
    version = None
    while not _has_all_of_llms(connection):
        now = time.monotonic()
        seen = connection.execute("pragma data_version").fetchone()
        if seen != version:
            version, changed = seen, now
        if now - changed > STILL_SECONDS or now - begun > PATIENCE_SECONDS:
            return
        time.sleep(POLL_SECONDS)


def _has_all_of_llms(connection: sqlite3.Connection) -> bool:
    if not connection.execute("select 1 from sqlite_master where name = '_llm_migrations'").fetchone():
        return False
    applied = {name for (name,) in connection.execute("select name from _llm_migrations")}
    return applied.issuperset(migration.__name__ for migration in MIGRATIONS)
