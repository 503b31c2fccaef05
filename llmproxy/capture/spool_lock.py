"""The spool's lock, by which its ingesters take turns."""

import fcntl
import logging
import os
from pathlib import Path

from llmproxy.capture.spool import make_folder

logger = logging.getLogger("llmproxy.spool")


class SpoolLock:
    """The spool's lock: one ingester at a time. Given up by the system when its process dies."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._fd = os.open(folder / "ingest.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self) -> bool:
        """Take it, if nobody has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            # The lock is ours all the same, and where the disk is full it is ingest that makes room.
            logger.debug("the spool's lock cannot be signed: %s", exc.strerror)
        return True

    def holder(self) -> str:
        """The process that has it, as text."""
        return os.pread(self._fd, 20, 0).decode(errors="replace").strip() or "unknown"

    def close(self) -> None:
        os.close(self._fd)
