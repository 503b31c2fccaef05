"""A run is made by one process at a time: a second one would ask, and pay for, the same answers."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmproxy.capture.spool import make_folder


class RunIsBusy(Exception):
    """Another process makes this run; one line for the user."""


@contextmanager
def locked(database: Path, run_id: str) -> Iterator[None]:
    """Hold the lock of a run of this database. The system gives it up when the process dies, however it dies.

    Raises `RunIsBusy`, `OSError`.
    """
    folder = database.resolve().parent / "llmproxy"
    make_folder(folder)
    path = folder / f"bench-{run_id}.lock"
    fd = _lock(path, run_id)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _lock(path: Path, run_id: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have removed the file between our opening and our locking it.
            if _is_at(fd, path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
                return fd
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
            os.close(fd)
            raise RunIsBusy(
                f"another llmproxy bench (process {holder}) is at run {run_id};"
                f" when it has ended, go on with: llmproxy bench --resume {run_id}"
            ) from None
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
