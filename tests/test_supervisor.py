"""The ingester's process is kept running, and ends with us."""

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from llmproxy import supervisor
from llmproxy.config import CaptureConfig
from llmproxy.supervisor import IngesterProcess
from tests.proxy import DEADLINE, eventually


def ingester(tmp_path: Path) -> IngesterProcess:
    return IngesterProcess(CaptureConfig(database=tmp_path / "logs.db", spool=tmp_path / "spool"))


def test_it_is_tried_again_where_the_system_cannot_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def popen(*arguments: Any, **options: Any) -> Any:
        started.append(None)
        if len(started) < 3:
            raise OSError(12, "Cannot allocate memory")
        return real(*arguments, **options)

    real = subprocess.Popen
    monkeypatch.setattr(supervisor, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr("subprocess.Popen", popen)
    process = ingester(tmp_path)
    process.start()
    try:
        eventually(lambda: (tmp_path / "logs.db").exists(), "a running ingester")
    finally:
        process.stop()
    assert len(started) == 3


@pytest.mark.parametrize("at_once", [False, True])
def test_one_that_does_not_end_is_killed_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def popen(arguments: Any, **options: Any) -> Any:
        processes.append(real(["sleep", "600"], **options))
        return processes[-1]

    real = subprocess.Popen
    monkeypatch.setattr(supervisor, "DRAIN_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "LAST_SECONDS", 0.01)
    monkeypatch.setattr("subprocess.Popen", popen)
    process = ingester(tmp_path)
    process.start()
    process.stop(at_once=at_once)
    assert [each.returncode for each in processes] == [-9]
    assert ("does not end" in caplog.text) != at_once


def test_the_end_may_come_while_it_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starting, go_on = threading.Event(), threading.Event()
    processes: list[subprocess.Popen[bytes]] = []

    def popen(*arguments: Any, **options: Any) -> Any:
        if processes:
            starting.set()
            assert go_on.wait(DEADLINE)
        processes.append(real(*arguments, **options))
        return processes[-1]

    real = subprocess.Popen
    monkeypatch.setattr(supervisor, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr("subprocess.Popen", popen)
    process = ingester(tmp_path)
    process.start()
    processes[0].kill()
    assert starting.wait(DEADLINE)
    stopping = threading.Thread(target=process.stop)
    stopping.start()
    go_on.set()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()
    assert [each.poll() is not None for each in processes] == [True, True]
