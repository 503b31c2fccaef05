"""`python -m benchmarks.ingest`: how fast, in how much memory and how small the spool gets into the database.

A spool is filled, then `llmproxy ingest --drain` is timed on one CPU of its own; the time that it takes over a single
turn (starting, making the database) is subtracted. Every exchange must be in the database afterwards.

- `short turns`, `streams`: each a conversation of its own. `200 messages, new`: conversations that come with 200
  messages that were never seen, each of which is stored. `200 messages, going on`: such conversations turn by turn;
  after the first, all but two messages are known, which is what an agent's or a chat's traffic is.
- The agent: 200 turns with 30 tools and a system prompt of 20 KB, all sent in full each turn. Each turn's tool result
  has 1.5 KB (a listing, a test's output), or 8 KB (a file that was read). The database's size is told over the unique
  bytes: each message and tool once, each response in full.

Peak memory is the resident set's, of the whole run; it must not grow with what waits.
"""

import argparse
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.contestants import child_environment
from benchmarks.conversations import Call, agent, fill, long_conversations, short_turns, streamed_turns, unique_bytes
from benchmarks.processes import POLL_SECONDS, ROOT, BenchmarkError, end_tidily, pinned_places
from benchmarks.tables import number, table

Calls = Callable[[], Iterator[Call]]

DRAIN_SECONDS = 900.0
STREAM_CHUNKS = 100
AGENT_TURNS = 200
AGENT_RESULT_BYTES = (1500, 8000)
DATABASE = "logs.db"


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a spool took. Sizes are bytes, `peak` KiB. `cpu` and `seconds` include the start."""

    exchanges: int
    seconds: float
    cpu: float
    peak: int
    spooled: int
    database: int


def drain(folder: Path, calls: Iterator[Call], environment: Mapping[str, str]) -> Drained:
    """Fill a spool in the empty `folder`, drain it and see that all of it arrived."""
    spool = folder / "llmproxy" / "spool"
    exchanges = fill(spool, calls)
    spooled = sum(file.stat().st_size for file in spool.iterdir())
    command = [sys.executable, "-m", "llmproxy", "ingest", "--drain", "--database", str(folder / DATABASE)]
    begun = time.monotonic()
    process = subprocess.Popen(
        command, env={**environment, "LLM_USER_PATH": str(folder)}, cwd=ROOT, stderr=(folder / "log").open("wb")
    )
    if cpus := pinned_places().proxy:
        os.sched_setaffinity(process.pid, cpus)
    usage = _wait(process, begun + DRAIN_SECONDS)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise BenchmarkError(f"ingest failed: {(folder / 'log').read_text(errors='replace')[-2000:]}")
    _see_that_all_arrived(folder / DATABASE, exchanges)
    return Drained(
        exchanges, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, spooled, _size(folder / DATABASE)
    )


def _wait(process: subprocess.Popen[bytes], deadline: float) -> resource.struct_rusage:
    """What the process used, which only whoever reaps it is told. It has ended afterwards, whatever happens."""
    try:
        while time.monotonic() < deadline:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage
            time.sleep(POLL_SECONDS)
        raise BenchmarkError(f"ingest did not end in {DRAIN_SECONDS:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def _see_that_all_arrived(database: Path, exchanges: int) -> None:
    db = sqlite3.connect(database)
    try:
        rows, turns = db.execute("select count(*), count(turn_id) from llmproxy_exchanges").fetchone()
    finally:
        db.close()
    if (rows, turns) != (exchanges, exchanges):
        raise BenchmarkError(f"of {exchanges} exchanges {rows} are in the database, {turns} of them as turns")


def _size(database: Path) -> int:
    """With what has not been taken over from the write-ahead log."""
    sizes: list[int] = [file.stat().st_size for file in database.parent.glob(f"{DATABASE}*")]
    return sum(sizes)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how many conversations, 1 for the usual number")
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    scale: float = arguments.scale
    end_tidily()

    def some(count: int) -> int:
        return max(1, round(count * scale))

    loads: dict[str, Calls] = {
        "short turns": lambda: short_turns(some(5000)),
        "short turns, 4 times as many": lambda: short_turns(some(20000)),
        f"streams of {STREAM_CHUNKS} chunks": lambda: streamed_turns(some(2000), STREAM_CHUNKS),
        "200 messages, new": lambda: long_conversations(some(200), 1),
        "200 messages, going on": lambda: long_conversations(some(20), 30),
    }
    agents = {f"agent, results of {size / 1000:g} KB": size for size in AGENT_RESULT_BYTES}
    loads |= {name: partial(agent, AGENT_TURNS, size) for name, size in agents.items()}
    drained: dict[str, Drained] = {}
    with tempfile.TemporaryDirectory(prefix="llmproxy-benchmarks-") as scratch:
        environment = child_environment(Path(scratch))
        try:
            _best(Path(scratch), lambda: short_turns(1), environment, 1)  # compiles the bytecode
            single = _best(Path(scratch), lambda: short_turns(1), environment, arguments.rounds)
            for name, calls in loads.items():
                drained[name] = _best(Path(scratch), calls, environment, arguments.rounds)
        except BenchmarkError as exc:
            print(f"benchmarks: {exc}", file=sys.stderr)
            return 1
    print(_table(drained, single))
    print(f"\nA database of one short turn takes {single.database:,} bytes.")
    unique: dict[str, int] = {}
    for name, size in agents.items():
        told = drained[name]
        unique[name] = unique_bytes(agent(AGENT_TURNS, size))
        print(
            f"{name}: {told.spooled:,} bytes passed, {unique[name]:,} of them unique,"
            f" {told.database:,} in the database:"
            f" {told.database / unique[name]:.2f} of the unique ones"
            f" ({(told.database - single.database) / unique[name]:.2f} beyond a database of one short turn)."
        )
    if arguments.json:
        result = {name: asdict(one) for name, one in drained.items()} | {"single": asdict(single), "unique": unique}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _best(scratch: Path, calls: Calls, environment: Mapping[str, str], rounds: int) -> Drained:
    """The fastest of so many rounds: what else the machine does only ever adds."""
    taken = []
    for _ in range(rounds):
        folder = scratch / "database"
        folder.mkdir()
        try:
            taken.append(drain(folder, calls(), environment))
        finally:
            shutil.rmtree(folder)
    return min(taken, key=lambda one: one.seconds)


def _table(drained: Mapping[str, Drained], single: Drained) -> str:
    return table(
        ["load", "turns", "turns/s", "CPU ms/turn", "peak MiB", "MB spooled", "MB in the database"],
        [
            [
                name,
                number(one.exchanges),
                number((one.exchanges - 1) / (one.seconds - single.seconds)),
                number((one.cpu - single.cpu) / (one.exchanges - 1) * 1000, 2),
                number(one.peak / 1024),
                number(one.spooled / 1e6, 1),
                number(one.database / 1e6, 1),
            ]
            for name, one in drained.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
