"""What is done to the machine: each fault is made, held for a while and mended."""

import collections
import contextlib
import ctypes
import os
import random
import resource
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DISK_BYTES = 2 * 1024**3

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Place:
    """Where a run keeps its things: `home` holds two disks, one for the database's folder and one for the spool."""

    home: Path
    mounted: bool = False  # the disks are file systems of their own, which can be filled

    @property
    def database(self) -> Path:
        return self.home / "disk" / "db" / "logs.db"

    @property
    def spool(self) -> Path:
        return self.home / "spool-disk" / "spool"

    def make(self, *, mount: bool) -> None:
        """Make the folders, with `mount` each on a small disk of its own where that is allowed."""
        for disk in (self.home / "disk", self.home / "spool-disk"):
            disk.mkdir()
            options = f"size={DISK_BYTES},mode=0700"
            self.mounted = mount and _run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)])
        for folder in (self.database.parent, self.home / "disk" / "rubbish", self.home / "tmp"):
            folder.mkdir(mode=0o700)
        (self.home / "disk" / "rubbish" / "logs.db").write_bytes(b"this is no database, " * 1000)

    def clear(self) -> None:
        if self.mounted:
            for disk in (self.home / "disk", self.home / "spool-disk"):
                _run(["umount", "-l", str(disk)])


def processes(home: Path) -> dict[int, str]:
    """The processes of a run, whoever started them, and what each is: told by their environment."""
    found = {}
    mark = b"LLM_USER_PATH=" + os.fsencode(home) + b"\0"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark not in (entry / "environ").read_bytes():
                    continue
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if command:  # else it is dead and not yet waited for
                found[int(entry.name)] = _kind(command)
    return found


def _kind(command: bytes) -> str:
    if b"\0ingest\0" in command:
        return "ingester"
    if b"spawn_main" in command:
        return "worker"
    return "server" if b"\0serve\0" in command else "other"


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def may_write_what_is_read_only() -> bool:
    """Whether this process has rights over files that no user has (CAP_DAC_OVERRIDE)."""
    probe = Path("/proc/self/status").read_text()
    effective = int(probe.partition("CapEff:")[2].split()[0], 16)
    bounding = int(probe.partition("CapBnd:")[2].split()[0], 16)
    return bool(effective & bounding & 2)


def give_up_rights() -> None:
    """Let no program that this process starts have more rights over files than a user has (capabilities(7)):
    to root nothing is read-only, and the last blocks of a full disk are its own."""
    set_bounding_drop, dac_override, dac_read_search, sys_resource = 24, 1, 2, 24
    for capability in (dac_override, dac_read_search, sys_resource):
        _libc.prctl(set_bounding_drop, capability, 0, 0, 0)


@dataclass
class Faults:
    """Makes faults at random, one at a time, until told to stop."""

    place: Place
    chance: random.Random
    running: threading.Lock  # held by whoever needs the server neither to start nor to be started
    stop: threading.Event = field(default_factory=threading.Event)
    count: "collections.Counter[str]" = field(default_factory=collections.Counter)
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        kinds: list[Callable[[], contextlib.AbstractContextManager[None]]] = [self.locked, self.rubbish]
        kinds += [self.database_disk_full, self.spool_disk_full]
        if not may_write_what_is_read_only():
            kinds.append(self.read_only)
        try:
            while not self.stop.wait(0.3 + self.chance.random()):
                kind = self.chance.choice(kinds)
                with kind():
                    self.stop.wait(0.3 + 2 * self.chance.random())
                self.count[kind.__name__.replace("_", " ")] += 1
        except BaseException as exc:  # for the main thread to raise
            self.errors.append(exc)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another process holds a write lock."""
        with contextlib.closing(sqlite3.connect(self.place.database, timeout=10, isolation_level=None)) as lock:
            lock.execute("begin immediate")
            yield

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """The database's files are read-only. Who has them open may go on, so the ingester begins anew."""
        self._allow(0o400)
        kill(self._pids("ingester"))
        yield
        self._allow(0o600)

    def _allow(self, mode: int) -> None:
        for path in self.place.database.parent.iterdir():
            if path.name.startswith("logs.db"):
                with contextlib.suppress(FileNotFoundError):  # SQLite removes its own
                    path.chmod(mode)

    @contextlib.contextmanager
    def rubbish(self) -> Iterator[None]:
        """The database's folder is exchanged, in one step, for one with a file that is no database, and back.

        No ingester lives through either moment: SQLite opens a database and its log by name, one after the other, and
        must not be given those of two databases."""
        with self.running:
            self._exchange()
            yield
            self._exchange()

    def _exchange(self) -> None:
        kill(self._pids("ingester"))
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: renameat2(2)
        one, two = os.fsencode(self.place.database.parent), os.fsencode(self.place.home / "disk" / "rubbish")
        if _libc.renameat2(here, one, here, two, exchange) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")

    def database_disk_full(self) -> contextlib.AbstractContextManager[None]:
        return self._full(self.place.home / "disk", ("ingester",))

    def spool_disk_full(self) -> contextlib.AbstractContextManager[None]:
        return self._full(self.place.home / "spool-disk", ("server", "worker"))

    @contextlib.contextmanager
    def _full(self, disk: Path, writers: tuple[str, ...]) -> Iterator[None]:
        if self.place.mounted:
            status = os.statvfs(disk)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            _run(["mount", "-o", f"remount,size={max(used, 4096)}", str(disk)])
            yield
            assert _run(["mount", "-o", f"remount,size={DISK_BYTES}", str(disk)])
            return
        # Without a disk of its own: the system refuses the writers to let any file grow (setrlimit(2)).
        pids = self._pids(*writers)
        for pid in pids:
            _limit(pid, 0)
        yield
        for pid in pids:
            _limit(pid, resource.RLIM_INFINITY)

    def _pids(self, *kinds: str) -> list[int]:
        return [pid for pid, kind in processes(self.place.home).items() if kind in kinds]


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size if hard == resource.RLIM_INFINITY else hard, hard))


def _run(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
