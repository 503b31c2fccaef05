"""What a contestant needs without load: memory, idle and with open streams, and time to start."""

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

from benchmarks import processes
from benchmarks.contestants import Contestant, Surroundings
from benchmarks.load import PATH, Load
from benchmarks.processes import BenchmarkError, Memory
from benchmarks.scenarios import generate
from benchmarks.tables import number, table

STREAMS = (500, 1000)
HELD = "open"
FIRST_ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of the serving process (and of the ingester), idle after the first answers and with open streams."""

    contestant: str
    idle: Memory
    ingester: Memory
    streams: dict[int, Memory]
    ingester_with_streams: Memory

    def per_stream(self, streams: int) -> float:
        """KiB of the serving process for each open stream."""
        return (self.streams[streams].pss - self.idle.pss) / streams


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the command to the first forwarded answer, in each round."""

    contestant: str
    seconds: Sequence[float]


def footprints(contestants: Sequence[Contestant], surroundings: Surroundings) -> list[Footprint]:
    """Memory, each contestant by itself in a new process."""
    return [_footprint(contestant, surroundings) for contestant in contestants if contestant.launch]


def _footprint(contestant: Contestant, surroundings: Surroundings) -> Footprint:
    with contestant.serving(surroundings) as running:
        for mode in ("json", "stream"):
            generate(Load(running.port, mode, 1, warmup=0.0, seconds=0.1), surroundings)
        idle, ingester = processes.memory(running.serving), processes.memory(running.ingesting)
        streams = {}
        for count in STREAMS:
            with _streams(count, running.port, surroundings):
                streams[count] = processes.memory(running.serving)
                ingester_with_streams = processes.memory(running.ingesting)
        return Footprint(contestant.name, idle, ingester, streams, ingester_with_streams)


@contextmanager
def _streams(count: int, port: int, surroundings: Surroundings) -> Iterator[None]:
    """So many open streams."""
    log = surroundings.folder / "hold.log"
    load = json.dumps(dataclasses.asdict(Load(port, "hold", count)))
    command = [sys.executable, "-m", "benchmarks.load", load]
    process = processes.start(command, log, surroundings.places.load, surroundings.environment, stdin=subprocess.PIPE)
    with processes.running(process):
        processes.wait_for_line(process, log, HELD)
        yield
        process.communicate(timeout=processes.END_SECONDS)


def memory_table(footprints: Sequence[Footprint]) -> str:
    """MiB, and KiB for each open stream."""

    def mib(memory: Memory) -> str:
        return f"{memory.rss / 1024:.1f} ({memory.pss / 1024:.1f})" if memory.rss else "-"

    most = STREAMS[-1]
    return table(
        [
            "contestant",
            "idle MiB, RSS (PSS)",
            *(f"with {count:,} streams" for count in STREAMS),
            *(f"KiB/stream at {count:,}" for count in STREAMS),
            "ingester idle",
            f"ingester at {most:,}",
        ],
        [
            [
                one.contestant,
                mib(one.idle),
                *(mib(one.streams[count]) for count in STREAMS),
                *(number(one.per_stream(count), 1) for count in STREAMS),
                mib(one.ingester),
                mib(one.ingester_with_streams),
            ]
            for one in footprints
        ],
    )


def starts(contestants: Sequence[Contestant], surroundings: Surroundings, rounds: int) -> list[Start]:
    """From the command to the first answer; `llmproxy --help` and Python alone beside it."""
    taken: dict[str, list[float]] = {}
    for count in range(rounds + 1):
        once = {contestant.name: _start(contestant, surroundings) for contestant in contestants if contestant.launch}
        once["llmproxy --help"] = _command(["-m", "llmproxy", "--help"], surroundings)
        once["(Python alone)"] = _command(["-c", "pass"], surroundings)
        if count:  # the first compiles the bytecode
            for name, seconds in once.items():
                taken.setdefault(name, []).append(seconds)
    return [Start(name, seconds) for name, seconds in taken.items()]


def _start(contestant: Contestant, surroundings: Surroundings) -> float:
    assert contestant.launch is not None
    folder = surroundings.folder / f"start-{contestant.name}"
    folder.mkdir()
    try:
        begun = time.monotonic()
        process, port = contestant.launch(surroundings, folder)
        with processes.running(process):
            while not _answers(port):
                if time.monotonic() > begun + FIRST_ANSWER_SECONDS:
                    raise BenchmarkError(f"{contestant.name} does not answer: {(folder / 'log').read_text()[-2000:]}")
            return time.monotonic() - begun
    finally:
        shutil.rmtree(folder)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=FIRST_ANSWER_SECONDS)
    try:
        connection.request("POST", PATH, b"{}", {"x-benchmark": "json", "content-type": "application/json"})
        return connection.getresponse().status == 200
    except ConnectionError:
        time.sleep(0.002)
        return False
    finally:
        connection.close()


def _command(arguments: Sequence[str], surroundings: Surroundings) -> float:
    begun = time.monotonic()
    process = processes.start(
        [sys.executable, *arguments],
        surroundings.folder / "command.log",
        surroundings.places.proxy,
        surroundings.environment,
    )
    with processes.running(process):
        if process.wait(FIRST_ANSWER_SECONDS):
            raise BenchmarkError(f"{arguments} failed: {(surroundings.folder / 'command.log').read_text()[-2000:]}")
    return time.monotonic() - begun


def start_table(starts: Sequence[Start]) -> str:
    """Milliseconds."""
    return table(
        ["command", "ms to the first answer", "spread"],
        [
            [
                one.contestant,
                number(statistics.median(one.seconds) * 1000),
                f"{number(min(one.seconds) * 1000)} to {number(max(one.seconds) * 1000)}",
            ]
            for one in starts
        ],
    )
