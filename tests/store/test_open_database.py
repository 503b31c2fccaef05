"""The logs database is opened whatever happened to those that opened it before, and whatever others do meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from llm.logs import LogStore
from sqlite_utils import Database

from llmproxy.store.open_database import open_database

# It runs a step of its own after each of `llm`'s migrations.
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
import llm.migrations
from llm.logs import LogStore
from sqlite_utils import Database
from llmproxy.store.open_database import open_database

def after_each(step):
    for at, migration in enumerate(llm.migrations.MIGRATIONS):
        def stepped(db, migration=migration, at=at):
            migration(db)
            step(at)
        stepped.__name__ = migration.__name__
        llm.migrations.MIGRATIONS[at] = stepped

def told(at):
    if at == 20:
        print("at work", flush=True)
        sys.stdin.readline()

def slow(at):
    told(at)
    if at > 20:
        time.sleep(0.05)

path = Path(sys.argv[1])
"""
KILLED = PRELUDE + "after_each(lambda at: at == 24 and os.kill(os.getpid(), signal.SIGKILL)); open_database(path)"
MAKES_IT_MEANWHILE = PRELUDE + "after_each(told); open_database(path)"
LLM_MIGRATES_MEANWHILE = PRELUDE + "after_each(slow); LogStore(Database(path))"


def check(path: Path) -> None:
    with closing(open_database(path)) as db:
        assert LogStore(db).verify() == []
        assert db["llmproxy_exchanges"].count == 0
        assert db.journal_mode == "wal"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in path.parent.iterdir()} <= {"logs.db", "logs.db-wal", "logs.db-shm"}


@pytest.mark.parametrize("exists", [False, True])
def test_a_process_killed_while_it_makes_the_database_spoils_nothing(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "logs.db"
    if exists:
        path.touch(mode=0o600)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    check(path)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    abandoned, others = tmp_path / ".logs.db-abc", tmp_path / ".logs.db-def"
    abandoned.touch()
    others.touch()
    os.utime(abandoned, (0, 0))
    open_database(tmp_path / "logs.db").close()
    assert not abandoned.exists() and others.exists()


def test_llm_may_make_the_database_while_we_do(tmp_path: Path, closed_after: Callable[[Database], Database]) -> None:
    path = tmp_path / "logs.db"
    ours = at_work(MAKES_IT_MEANWHILE, path)
    LogStore(closed_after(Database(path)))
    path.chmod(0o600)
    ours.communicate("go on\n", timeout=60)
    assert ours.returncode == 0
    check(path)


def test_llm_is_let_finish_its_migrations(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    path.touch(mode=0o600)
    llms = at_work(LLM_MIGRATES_MEANWHILE, path)
    assert llms.stdin is not None
    llms.stdin.write("go on\n")
    llms.stdin.flush()
    check(path)
    llms.communicate(timeout=60)
    assert llms.returncode == 0


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_a_removed_database_left_is_not_taken_for_the_new_ones(
    tmp_path: Path, checkpointed: bool, closed_after: Callable[[Database], Database]
) -> None:
    path = tmp_path / "logs.db"
    removed = closed_after(open_database(path))
    removed.table("big").insert_all({"text": "x" * 1000} for _ in range(1000))
    if checkpointed:
        removed.execute("pragma wal_checkpoint")
        removed.table("big").insert({"text": "y"})
    path.unlink()
    new = closed_after(open_database(path))
    new.table("small").insert({"text": "z"})
    assert new.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert not new["big"].exists()
    assert new["small"].count == 1
    check(path)


def test_where_no_hard_links_are_it_is_made_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    check(tmp_path / "logs.db")


def test_a_link_to_where_no_file_is_yet_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "linked" / "logs.db"
    link.parent.mkdir()
    link.symlink_to(Path("..") / "elsewhere" / "logs.db")
    open_database(link).close()
    assert [each.name for each in link.parent.iterdir()] == ["logs.db"] and link.is_symlink()
    check(tmp_path / "elsewhere" / "logs.db")


def at_work(program: str, path: Path) -> "subprocess.Popen[str]":
    """A process that has begun to migrate, and goes on when it is told a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process
