"""Processes: where they run, what they cost, and that they end. Linux only: figures come from /proc."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 20.0
END_SECONDS = 15.0
POLL_SECONDS = 0.002


class BenchmarkError(Exception):
    """Something could not be measured. One line for the user."""


@dataclass(frozen=True, slots=True)
class Places:
    """The CPUs for each role; empty sets pin nothing. `ingester_idle`: it only gets what the load leaves."""

    proxy: frozenset[int] = frozenset()
    load: frozenset[int] = frozenset()
    ingester: frozenset[int] = frozenset()
    ingester_idle: bool = False

    @property
    def measured(self) -> frozenset[int]:
        return (self.proxy | self.load) or frozenset(os.sched_getaffinity(0))


UNPINNED = Places(ingester_idle=True)


def pinned_places() -> Places:
    """A CPU for the proxy and one for the load; the ingester on a third, or idly beside the load."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return UNPINNED
    proxy, load = frozenset(cpus[:1]), frozenset(cpus[1:2])
    return Places(proxy, load, frozenset(cpus[2:3]) or load, ingester_idle=len(cpus) < 3)


def start(
    command: Sequence[str],
    log: Path,
    cpus: frozenset[int],
    environment: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process that writes to the file `log`, pinned before it has threads or children."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), cwd=ROOT
        )
    if cpus:
        os.sched_setaffinity(process.pid, cpus)
    return process


def wait_for_line(process: subprocess.Popen[bytes], log: Path, marker: str) -> str:
    """The first line of `log` that holds `marker`, as soon as it is whole."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if marker in line and line.endswith("\n"):
                return line.strip()
        time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def wait_for_port(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)
    raise BenchmarkError(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on, for servers that cannot be told to choose one and say which."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that `start` started, and what it started, at once: what they would save is of no worth.

    Asked politely, llmproxy would first ingest what waits.
    """
    family = {pid: _identity(pid) for pid in tree(process.pid)[1:]}
    process.kill()
    process.wait()
    deadline = time.monotonic() + END_SECONDS
    while left := [pid for pid, identity in family.items() if identity and _identity(pid) == identity]:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{left}, started by {process.args!r}, cannot be killed")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL_SECONDS)


def _identity(pid: int) -> str | None:
    """What tells a process from a later one with its pid; None for one that is gone."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else fields[19]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends the process at the end."""
    try:
        yield process
    finally:
        end(process)


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for one in found:
        try:
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def is_ingester(pid: int) -> bool:
    """Whether this is llmproxy's ingester, rather than a process that serves."""
    try:
        return b"ingest" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def cpu_us(pids: Sequence[int]) -> float:
    """User and system time so far of processes that run, in microseconds."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is not None:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS * 1e6


def machine_cpu_us(cpus: frozenset[int]) -> float:
    """Time so far that these CPUs were not idle, in microseconds, whoever used them."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:] and int(name[3:]) in cpus:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICKS * 1e6


@dataclass(frozen=True, slots=True)
class Memory:
    """KiB. PSS counts what processes share by its share."""

    rss: int
    pss: int


def memory(pids: Sequence[int]) -> Memory:
    """Resident memory of processes."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                rss += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss += int(line.split()[1])
    return Memory(rss, pss)


def end_tidily() -> None:
    """Let SIGTERM end us as Ctrl-C does: with all processes ended and all files removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def allow_many_files() -> None:
    """Raise the limit of open files, which children inherit, as far as it goes: 1,000 streams are 2,000 sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
