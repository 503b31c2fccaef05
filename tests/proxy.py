"""Runs the proxy for tests: in a thread of this process, or as the program that users start."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from llmproxy.app import App
from llmproxy.capture.exchange import Exchange
from llmproxy.capture.spool_reader import SpoolReader
from llmproxy.config import Config
from llmproxy.console import set_up_logging
from llmproxy.serve import listen
from llmproxy.server.protocol import HTTPProtocol
from llmproxy.server.server import Server

T = TypeVar("T")
DEADLINE = 120.0


def eventually(probe: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Poll until `probe` gives something true."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not in {seconds:g} seconds: {what}"
        time.sleep(0.005)
    return found


@dataclass
class InThread:
    """A proxy in a thread."""

    port: int
    app: App
    config: Config

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def exchanges(self) -> list[Exchange]:
        """What is in the spool: all exchanges that ended, none of them acknowledged."""
        reader = SpoolReader(self.config.capture.spool_path)
        try:
            return [recorded.load() for recorded in reader.exchanges()]
        finally:
            reader.close()

    def exchange(self) -> Exchange:
        """The one exchange there is."""
        exchanges = eventually(self.exchanges, "an exchange in the spool")
        assert len(exchanges) == 1
        return exchanges[0]


@contextmanager
def proxy_in_thread(
    tmp_path: Path, *, loop: str = "uvloop", server: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[InThread]:
    """Serve a configuration on a free port; it records into `tmp_path/spool`, and nothing ingests. `server` is
    uvicorn's settings."""
    settings.setdefault("capture", {})
    settings["capture"] = {"database": tmp_path / "logs.db", "spool": tmp_path / "spool", "enabled": True} | settings[
        "capture"
    ]
    config = Config(port=0, **settings)
    with app_in_thread(app := App(config), loop=loop, grace=config.shutdown_grace, **(server or {})) as port:
        yield InThread(port, app, config)


@contextmanager
def app_in_thread(app: Any, *, loop: str = "uvloop", grace: float = 5, **settings: Any) -> Iterator[int]:
    """Serve any ASGI app on a free port; `settings` are uvicorn's."""
    sock = listen(Config(port=0))
    set_up_logging()
    server = Server(
        uvicorn.Config(
            app,
            loop=loop,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=grace,  # type: ignore[arg-type]
            **{"http": HTTPProtocol, **settings},
        )
    )
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    eventually(lambda: server.started or not thread.is_alive(), "the server's start")
    assert thread.is_alive(), "the server did not start"
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        sock.close()
        assert not thread.is_alive()


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


class Program:
    """`llmproxy serve` as a process, with a home of its own."""

    def __init__(self, home: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.database = home / "logs.db"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("LLMPROXY_", "LLM_"))
        }
        self.environment |= {"LLM_USER_PATH": str(home), "PYTHONUNBUFFERED": "1", "LLMPROXY_CAPTURE__SETTLE": "0"}
        self.environment |= environment or {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmproxy", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.output.append(line)

    @property
    def port(self) -> int:
        def found() -> int | None:
            match = re.search(r"listens on http://[^ ]*?:(\d+)", "".join(self.output))
            assert match or self.process.poll() is None, "".join(self.output)
            return int(match[1]) if match else None

        return eventually(found, "the port") or 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        # The ingester may outlive it and hold the pipe's other end, so the reader is waited for only where it ends.
        self._reader.join(5)
        return code

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait()

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the database; none while it or the table is not there."""
        if not self.database.exists():
            return []
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)
        try:
            return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table" in str(exc):
                return []
            raise
        finally:
            connection.close()

    def llm(self, *arguments: str) -> str:
        """What `llm` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self) -> list[dict[str, Any]]:
        """All of `llm logs --json`, oldest first."""
        logs: list[dict[str, Any]] = json.loads(self.llm("logs", "--json", "-n", "0"))
        return logs

    def turns(self, count: int) -> list[dict[str, Any]]:
        """The logs once there are `count` exchanges in the database."""
        self.exchanges(count)
        return self.logs()

    def exchanges(self, count: int, columns: str = "*") -> list[tuple[Any, ...]]:
        """Rows of `llmproxy_exchanges` once there are `count`."""
        sql = f"select {columns} from llmproxy_exchanges order by id"
        try:
            return eventually(lambda: len(rows := self.query(sql)) >= count and rows, f"{count} exchanges") or []
        except AssertionError as exc:
            exc.add_note(f"There are {len(self.query(sql))}. The program said:\n{''.join(self.output)}")
            raise


@contextmanager
def serving(home: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """`llmproxy serve --port 0 …`, ended at the end."""
    program = Program(home, "serve", "--port", "0", *arguments, environment=environment)
    try:
        assert program.port
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.wait()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found
