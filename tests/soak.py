"""A soak: hours' worth of mixed traffic in minutes. It fails where memory, open files, threads or tasks grow.

    python -m tests.soak --minutes 5

The traffic is the crash test's: answers and streams, large and small, upstreams that reset, cut, stall and speak no
HTTP, clients that vanish. Nothing is killed.
"""

import argparse
import random
import re
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from llmproxy.store.open_database import CACHE_KIB
from tests.crash.faults import Place, kill, processes
from tests.crash.load import Load, ask, client, upstream_handler
from tests.crash.run import Victim, quiet
from tests.crash.verify import verify
from tests.proxy import Program, eventually
from tests.raw_upstream import raw_upstream

EXCHANGES_AN_HOUR = 3600  # of a busy program: one each second
ROOM_KIB = {"server": 8 * 1024, "worker": 8 * 1024, "ingester": 8 * 1024 + CACHE_KIB}
"""By how much the memory may grow from the second quarter to the last. SQLite's page cache fills as the file grows."""
SAMPLE_SECONDS = 2.0


@dataclass
class Samples:
    """What was seen of each process, in the order of time: `(kind, what)` → values."""

    values: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def take(self, program: Program, home: Path) -> None:
        for pid, kind in processes(home).items():
            status = Path(f"/proc/{pid}/status").read_text()
            self._add(kind, "KiB", int(status.partition("VmRSS:")[2].split()[0]))
            self._add(kind, "threads", int(status.partition("Threads:")[2].split()[0]))
            self._add(kind, "open files", len(list(Path(f"/proc/{pid}/fd").iterdir())))
        text = httpx2.get(f"{program.url}/_llmproxy/metrics", trust_env=False, timeout=30).text
        for name in ("tasks", "in_flight", "spool_waiting_bytes"):
            match = re.search(rf"^llmproxy_{name} (\d+)$", text, re.M)
            assert match, text
            self._add("server", name, int(match[1]))

    def _add(self, kind: str, what: str, value: int) -> None:
        self.values.setdefault((kind, what), []).append(value)

    def quarter(self, key: tuple[str, str], number: int) -> int:
        """The median of one of the four quarters, counted from 0."""
        values = self.values[key]
        size = max(1, len(values) // 4)
        return round(statistics.median(values[number * size : (number + 1) * size] or values[-1:]))


def run(home: Path, seconds: float, clients: int, seed: int) -> list[str]:
    """Run the soak in an empty folder; the report. Raises `AssertionError` for what grew or was lost."""
    place = Place(home)
    place.make(mount=False)
    try:
        return _run(place, seconds, clients, seed)
    finally:
        kill(list(processes(home)))


def _run(place: Place, seconds: float, clients: int, seed: int) -> list[str]:
    load = Load()
    samples, rest = Samples(), (Samples(), Samples())
    with raw_upstream(upstream_handler(load, random.Random(seed))) as up:
        victim = Victim(place, up.url)
        program = victim.start(1)
        load.url = program.url
        with httpx2.Client(trust_env=False) as session:
            ask(load, session, "answer")
        eventually(lambda: program.query("select id from llmproxy_exchanges"), "the first row")
        quiet(program, place.home)
        rest[0].take(program, place.home)
        threads = [threading.Thread(target=client, args=(load, seed + at), daemon=True) for at in range(clients)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            load.stop.wait(SAMPLE_SECONDS)
            up.requests.clear()  # the test's own memory is not what is looked at
            samples.take(program, place.home)
        load.stop.set()
        for thread in threads:
            thread.join(60)
        took = time.monotonic() - start
        quiet(program, place.home)
        # Idle connections to the upstream are kept for a while.
        eventually(lambda: at_rest(rest, program, place.home), "as few open files and tasks as at the start", 60)
        assert program.stop() == 0, program.output[-20:]
    drain = victim.run("ingest", "--drain")
    assert drain.wait(600) == 0, drain.output[-20:]
    counts = verify(place, load)
    exchanges = len(load.reached)
    report = [
        f"{exchanges} exchanges in {took:.0f} s, {exchanges / took:.0f} a second;"
        f" {exchanges / EXCHANGES_AN_HOUR:.1f} hours of a program that asks each second",
        *(f"{count:>8}  {name}" for name, count in counts.items()),
        f"{'':30}{'quarter 1':>10}{'2':>10}{'3':>10}{'4':>10}{'most':>10}",
    ]
    grown = []
    for (kind, what), values in sorted(samples.values.items()):
        quarters = [samples.quarter((kind, what), number) for number in range(4)]
        report.append(f"{kind + ' ' + what:30}" + "".join(f"{value:>10}" for value in (*quarters, max(values))))
        if what == "KiB" and quarters[3] > quarters[1] + ROOM_KIB[kind]:
            grown.append(f"the memory of the {kind} grew from {quarters[1]} to {quarters[3]} KiB")
        if what in ("threads", "open files", "tasks") and quarters[3] > 1.5 * quarters[1] + 10:
            grown.append(f"{what} of the {kind} grew from {quarters[1]} to {quarters[3]}")
    assert not grown, "\n".join([*report, *grown])
    return report


def at_rest(rest: tuple[Samples, Samples], program: Program, home: Path) -> bool:
    """Whether there are no more open files, threads and tasks than before the load."""
    rest[1].values.clear()
    rest[1].take(program, home)
    return all(
        rest[1].values[key][0] <= before[0] + (what == "open files") * 2  # a segment more, a connection being made
        for key, before in rest[0].values.items()
        if (what := key[1]) in ("open files", "tasks")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="llmproxy-soak-") as folder:
        print("\n".join(run(Path(folder), options.minutes * 60, options.clients, options.seed)))


if __name__ == "__main__":
    main()
