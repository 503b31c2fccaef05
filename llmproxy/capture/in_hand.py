"""Which exchange is being ingested, noted on disk: one that ends the ingester again and again must not hold up all that
come behind it (one that takes more memory than there is, or a crash below Python)."""

import logging
import os
from pathlib import Path

MOST_ATTEMPTS = 3

logger = logging.getLogger("llmproxy.spool")


class InHand:
    """The note in the spool's folder; for the process that holds the spool's lock."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "ingest.current", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        id, _, attempts = os.pread(self._fd, 64, 0).decode("ascii", "replace").partition(" ")
        self._suspect = id
        self._attempts = int(attempts) if attempts.strip().isdigit() else 0
        self._noted = ""

    def take(self, id: str) -> bool:
        """Note that work on an exchange begins. False where too many processes have died over it: it is to be left."""
        if id == self._noted:
            return True
        attempts = self._attempts + 1 if id == self._suspect else 1
        if attempts > MOST_ATTEMPTS:
            return False
        self._noted = id
        try:
            os.pwrite(self._fd, b"%b %d\n" % (id.encode(), attempts), 0)
        except OSError as exc:
            # Where the disk is full it is ingest that makes room, and the note is the least of it.
            logger.debug("the exchange in hand cannot be noted: %s", exc.strerror)
        return True

    def put_down(self) -> None:
        """What was taken is done with."""
        if self._noted:
            self._noted = ""
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        os.close(self._fd)
