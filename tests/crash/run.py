"""One run: the load, the kills and the faults; then what is left over is looked at, and everything is counted."""

import collections
import json
import os
import random
import re
import threading
import time
from pathlib import Path

import httpx2

from llmproxy.store.open_database import CACHE_KIB
from tests.crash.faults import Faults, Place, kill, processes
from tests.crash.load import CLIENTS, READ_TIMEOUT, Load, ask, client, upstream_handler
from tests.crash.verify import verify
from tests.proxy import DEADLINE, Program, eventually
from tests.raw_upstream import raw_upstream

FEWEST_COMPLETE, FEWEST_KILLS = 21, 2
ROOM_KIB = {"server": 48 * 1024, "worker": 48 * 1024, "ingester": 64 * 1024 + CACHE_KIB}
"""By how much a process may be larger after the load than one that has just answered: allocators keep some, and the
ingester has SQLite's page cache."""


class Victim:
    """The program under test, which is started again each time it was killed."""

    def __init__(self, place: Place, upstream: str) -> None:
        self.place = place
        self.kills: collections.Counter[str] = collections.Counter()
        self.programs: list[Program] = []
        settings = {
            "upstreams": {"up": {"base_url": f"{upstream}/v1", "read_timeout": READ_TIMEOUT}},
            "capture": {"database": str(place.database), "spool": str(place.spool), "on_spool_error": "refuse"},
            "shutdown_grace": 5,
        }
        (place.home / "config.yaml").write_text(json.dumps(settings))

    def run(self, *arguments: str) -> Program:
        program = Program(
            self.place.home,
            *arguments,
            "--config",
            str(self.place.home / "config.yaml"),
            environment={"TMPDIR": str(self.place.home / "tmp")},
        )
        program.database = self.place.database
        self.programs.append(program)
        return program

    def start(self, workers: int) -> Program:
        program = self.run("serve", "--port", "0", "--workers", str(workers))
        assert program.port
        return program

    def kill(self, program: Program, victim: str) -> bool:
        """Kill a part. Returns whether the program has to be started again."""
        self.kills[victim] += 1
        found = processes(self.place.home)
        kill([pid for pid, kind in found.items() if kind == victim or victim == "all"])
        if victim == "worker" and "worker" in found.values():
            return False
        if victim != "ingester":
            kill([program.process.pid])
            program.process.wait()
        return victim != "ingester"

    def said(self) -> collections.Counter[str]:
        """Why the database or the spool could not be written, as the programs told."""
        said: collections.Counter[str] = collections.Counter()
        for program in self.programs:
            for line in program.output:
                if match := re.search(r"the (database|spool) \S+ cannot be written: ([^;(]+)", line):
                    said[f"{match[1]}: {match[2].strip()}"] += 1
                elif "Traceback" in line:
                    said["tracebacks"] += 1
        return said


def run(home: Path, seconds: float, seed: int, *, mount: bool = False) -> dict[str, int]:
    """Run the test in an empty folder; the counts. Raises `AssertionError` for what was lost.

    - `seconds`: of load, and longer on a slow machine: until there is something to tell.
    - `mount`: this process may mount file systems, in a namespace of its own.
    """
    place = Place(home)
    place.make(mount=mount)
    try:
        return _run(place, seconds, seed)
    finally:
        kill(list(processes(home)))
        place.clear()


def _run(place: Place, seconds: float, seed: int) -> dict[str, int]:
    chance = random.Random(seed)
    load = Load()
    with raw_upstream(upstream_handler(load, chance)) as up:
        victim = Victim(place, up.url)
        program = victim.start(1)
        load.url = program.url
        with httpx2.Client(trust_env=False) as session:
            ask(load, session, "answer")
        eventually(lambda: program.query("select id from llmproxy_exchanges"), "the first row")
        before = memory(place.home)
        before["worker"] = before["server"]
        starting = threading.Lock()
        faults = Faults(place, random.Random(seed + 1), starting)
        threads = [threading.Thread(target=client, args=(load, seed + at), daemon=True) for at in range(CLIENTS)]
        threads.append(threading.Thread(target=faults.run, daemon=True))
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds

        def enough() -> bool:
            now = time.monotonic()
            told = len(load.complete) >= FEWEST_COMPLETE and victim.kills.total() >= FEWEST_KILLS
            return now > end + DEADLINE or (now > end and told)

        while not enough() and not faults.errors:
            load.stop.wait(0.2 + chance.random())
            with starting:
                if victim.kill(program, chance.choice(("server", "worker", "ingester", "all"))):
                    program = victim.start(chance.choice((1, 2)))
                    load.url = program.url
        faults.stop.set()
        threads.pop().join(60)
        if faults.errors:
            raise faults.errors[0]
        load.stop.set()
        for thread in threads:
            thread.join(60)
        quiet(program, place.home)
        after = memory(place.home)
        for kind, room in ROOM_KIB.items():
            assert after[kind] < before[kind] + room, f"the memory of the {kind} has grown: {before} → {after} KiB"
        assert program.stop() == 0, program.output[-20:]
    drain = victim.run("ingest", "--drain")
    assert drain.wait(300) == 0, drain.output[-20:]
    eventually(lambda: not processes(place.home), "the end of all processes", 30)
    counts = verify(place, load)
    counts |= {f"killed: {name}": count for name, count in sorted(victim.kills.items())}
    counts |= {f"fault: {name}": count for name, count in sorted(faults.count.items())}
    counts |= {f"told: {name}": count for name, count in sorted(victim.said().items())}
    return counts | {
        f"KiB of the {kind} at the end (just started: {before[kind]})": size
        for kind, size in sorted(after.items())
        if kind in ROOM_KIB
    }


def memory(home: Path) -> dict[str, int]:
    """The largest resident memory among the processes of each kind, in KiB."""
    sizes: dict[str, int] = collections.defaultdict(int)
    for pid, kind in processes(home).items():
        status = Path(f"/proc/{pid}/status").read_text()
        sizes[kind] = max(sizes[kind], int(status.partition("VmRSS:")[2].split()[0]))
    return sizes


def quiet(program: Program, home: Path) -> None:
    """Wait until nothing is in flight and no connection is open, but those that idle in the upstream's pool."""
    serving = [pid for pid, kind in processes(home).items() if kind in ("server", "worker")]

    def connections() -> list[str]:
        own = {f"{program.port:04X}"}
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        inodes = {
            fields[9]: fields[1]
            for fields in (line.split() for line in lines)
            if fields[3] == "01" and fields[1].rpartition(":")[2] in own
        }
        found = []
        for pid in serving:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(entry)
                except FileNotFoundError:
                    continue
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    found.append(f"{pid} {target}")
        return found

    eventually(lambda: not connections(), "the end of the clients' connections", 30)
    in_flight = re.compile(r"^llmproxy_in_flight (\d+)$", re.M)

    def at_rest() -> bool:
        match = in_flight.search(httpx2.get(f"{program.url}/_llmproxy/metrics", trust_env=False).text)
        return match is not None and match[1] == "0"

    eventually(at_rest, "the end of what is in flight", 30)
