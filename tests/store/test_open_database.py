"""The logs database is opened whatever happened to those that opened it before."""

import signal
import subprocess
import sys
from pathlib import Path

from llm.logs import LogStore

from llmproxy.store.llm_store import open_database

KILLED_WHILE_MIGRATING = """
import os, signal, sys
from pathlib import Path
import llm.migrations
from llmproxy.store.llm_store import open_database

for at, migration in enumerate(llm.migrations.MIGRATIONS):
    def killed(db, migration=migration, at=at):
        migration(db)
        if at == 24:
            os.kill(os.getpid(), signal.SIGKILL)
    killed.__name__ = migration.__name__
    llm.migrations.MIGRATIONS[at] = killed
open_database(Path(sys.argv[1]))
"""


def test_a_process_killed_while_it_makes_the_database_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_MIGRATING, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    db = open_database(path)
    assert LogStore(db).verify() == []
    assert db["llmproxy_exchanges"].count == 0
