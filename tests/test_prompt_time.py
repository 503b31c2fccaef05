"""What ingest takes of the processor at once, and what it leaves to forwarding."""

import errno
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmproxy import prompt_time
from llmproxy.prompt_time import (
    LOOK_SECONDS,
    NICE,
    QUIET_BYTES_PER_SECOND,
    SAVED_SECONDS,
    SHARE_BUSY,
    SHARE_QUIET,
    PromptTime,
    give_way,
    let_go_first,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(prompt_time, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def saved_in_a_look(spool: Path, clock: Clock, grown: int) -> float:
    """What is saved up in the time between two looks, in which the spool grew by so many bytes."""
    time = PromptTime(spool)
    segment = spool / "0.spool"
    segment.write_bytes(bytes((segment.stat().st_size if segment.exists() else 0) + grown))
    clock.now += LOOK_SECONDS * 1.01
    time.left()
    time.spend(SAVED_SECONDS * 3)
    before = time.left()
    clock.now += LOOK_SECONDS * 0.5
    return time.left() - before


def test_more_is_taken_where_hardly_anything_is_forwarded(tmp_path: Path, clock: Clock) -> None:
    look = LOOK_SECONDS * 0.5
    assert saved_in_a_look(tmp_path, clock, 0) == pytest.approx(look * SHARE_QUIET)
    assert saved_in_a_look(tmp_path, clock, 10_000) == pytest.approx(look * SHARE_QUIET)
    assert saved_in_a_look(tmp_path, clock, QUIET_BYTES_PER_SECOND) == pytest.approx(look * SHARE_BUSY)
    assert saved_in_a_look(tmp_path, clock, 0) == pytest.approx(look * SHARE_QUIET)


def test_busy_is_what_the_last_look_saw(tmp_path: Path, clock: Clock) -> None:
    time = PromptTime(tmp_path)
    assert time.busy
    for grown, busy in ((0, False), (QUIET_BYTES_PER_SECOND, True), (0, False)):
        segment = tmp_path / "0.spool"
        segment.write_bytes(bytes((segment.stat().st_size if segment.exists() else 0) + grown))
        clock.now += LOOK_SECONDS * 1.01
        time.left()
        assert time.busy == busy


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the process's")
def test_the_nice_value_is_the_threads_own() -> None:
    def nice_there() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice_there()
    with ThreadPoolExecutor(1, initializer=let_go_first) as nice:
        assert nice.submit(nice_there).result() == min(before + NICE, 19)
    assert nice_there() == before


def test_no_more_is_saved_than_a_moments_work(tmp_path: Path, clock: Clock) -> None:
    time = PromptTime(tmp_path)
    clock.now += 3600
    assert time.left() == SAVED_SECONDS
    time.spend(SAVED_SECONDS)
    assert time.left() <= 0


def test_a_segment_that_vanishes_is_no_growth(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "0.spool").write_bytes(bytes(10 * QUIET_BYTES_PER_SECOND))
    time = PromptTime(tmp_path)
    (tmp_path / "0.spool").unlink()
    clock.now += 1
    time.left()
    time.spend(1)
    before = time.left()
    clock.now += LOOK_SECONDS * 0.5
    assert time.left() - before == pytest.approx(LOOK_SECONDS * 0.5 * SHARE_QUIET)


def test_where_the_system_has_no_idle_class_the_process_is_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    niceness: list[int] = []
    monkeypatch.setattr("os.sched_setscheduler", refuse, raising=False)
    monkeypatch.setattr("os.nice", niceness.append)
    give_way()
    assert niceness == [19]
