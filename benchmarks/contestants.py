"""The contestants: what stands between the load and the upstream, and how each is started."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.processes import BenchmarkError, Places

# Beside the user's PATH: Debian's lies where only root looks.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

NGINX_CONFIGURATION = """\
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on; client_max_body_size 0; client_body_buffer_size 1m; keepalive_requests 100000000;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream benchmark {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://benchmark; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that serves on `port`. `process` is None for `direct`, which is the upstream itself."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    ingester: int | None = None

    @property
    def serving(self) -> list[int]:
        """The processes that serve: without the ingester."""
        if self.process is None:
            return []
        return [pid for pid in processes.tree(self.process.pid) if not processes.is_ingester(pid)]

    @property
    def ingesting(self) -> list[int]:
        return [] if self.ingester is None else [self.ingester]

    def rest(self) -> None:
        """Stop the ingester while others are measured."""
        if self.ingester is not None:
            os.kill(self.ingester, signal.SIGSTOP)

    def wake(self) -> None:
        if self.ingester is not None:
            os.kill(self.ingester, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What contestants are started with: the upstream's port, an empty folder for each, the CPUs."""

    upstream: int
    folder: Path
    places: Places
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contestant:
    """`launch` gives the process and its port as soon as it was started, not when it serves."""

    name: str
    launch: Callable[[Surroundings, Path], tuple[subprocess.Popen[bytes], int]] | None
    has_ingester: bool = False

    def folder(self, surroundings: Surroundings) -> Path:
        """Where all of it lies."""
        return surroundings.folder / self.name.replace(" ", "-").replace(",", "")

    @contextmanager
    def serving(self, surroundings: Surroundings) -> Iterator[Running]:
        """Start it in a folder of its own, and end it at the end."""
        if self.launch is None:
            yield Running(self.name, surroundings.upstream)
            return
        folder = self.folder(surroundings)
        folder.mkdir()
        try:
            process, port = self.launch(surroundings, folder)
            with processes.running(process):
                processes.wait_for_port(process, folder / "log", port)
                ingester = _place_ingester(process, surroundings.places) if self.has_ingester else None
                running = Running(self.name, port, process, ingester)
                try:
                    yield running
                finally:
                    running.wake()
        finally:
            shutil.rmtree(folder)


def direct() -> Contestant:
    """Nothing in between."""
    return Contestant("direct", None)


def nginx() -> Contestant:
    """One worker, streaming both ways, without a log."""

    def launch(surroundings: Surroundings, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
        if NGINX is None:
            raise BenchmarkError("nginx is not installed")
        port = processes.free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(NGINX_CONFIGURATION.format(folder=folder, upstream=surroundings.upstream, port=port))
        command = [NGINX, "-c", str(configuration), "-p", str(folder)]
        return processes.start(command, folder / "log", surroundings.places.proxy, surroundings.environment), port

    return Contestant("nginx", launch)


def naive() -> Contestant:
    """`benchmarks/naive.py` under uvicorn, as fast as its documentation makes it."""

    def launch(surroundings: Surroundings, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
        port = processes.free_port()
        command = [sys.executable, "-m", "uvicorn", "benchmarks.naive:app", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        environment = {**surroundings.environment, "BENCHMARK_UPSTREAM": f"http://127.0.0.1:{surroundings.upstream}"}
        return processes.start(command, folder / "log", surroundings.places.proxy, environment), port

    return Contestant("naive", launch)


def llmproxy(
    name: str = "llmproxy",
    *,
    workers: int = 1,
    capture: bool = True,
    app: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Contestant:
    """llmproxy as its users start it. `app`: an ASGI app's import string, in place of the upstream over HTTP;
    `settings` are variables of the environment."""

    def launch(surroundings: Surroundings, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
        command = [sys.executable, "-m", "llmproxy", "serve", "--port", "0", "--workers", str(workers)]
        command += ["--database", str(folder / "logs.db")]
        if app is None:
            command += ["--upstream", f"http://127.0.0.1:{surroundings.upstream}/v1"]
        else:
            (folder / "config.yaml").write_text(f"upstreams: {{app: {{app: '{app}'}}}}\n")
            command += ["--config", str(folder / "config.yaml")]
        environment = {
            **surroundings.environment,
            "LLM_USER_PATH": str(folder),
            "LLMPROXY_CAPTURE__ENABLED": "true" if capture else "false",
            **(settings or {}),
        }
        process = processes.start(command, folder / "log", surroundings.places.proxy, environment)
        try:
            line = processes.wait_for_line(process, folder / "log", "listens on")
        except BaseException:
            processes.end(process)
            raise
        return process, int(line.rpartition(":")[2])

    return Contestant(name, launch, has_ingester=capture)


CONTESTANTS: Mapping[str, Callable[[], Contestant]] = {
    "direct": direct,
    "nginx": nginx,
    "naive": naive,
    "llmproxy": llmproxy,
}


def child_environment(folder: Path) -> dict[str, str]:
    """The environment of all processes: nothing of the user's configuration, and compiled bytecode kept in `folder`.

    Without bytecode, which some environments switch off, every start would compile what an installed package has
    compiled.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMPROXY_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


@contextmanager
def upstream(folder: Path, places: Places, environment: Mapping[str, str]) -> Iterator[Running]:
    """The upstream, which the contestants stand in front of."""
    log = folder / "upstream.log"
    process = processes.start([sys.executable, "-m", "benchmarks.upstream"], log, places.load, environment)
    with processes.running(process):
        yield Running("upstream", int(processes.wait_for_line(process, log, "")), process)


@contextmanager
def all_serving(contestants: list[Contestant], surroundings: Surroundings) -> Iterator[list[Running]]:
    """All contestants at once; their ingesters rest."""
    with ExitStack() as stack:
        started = []
        for contestant in contestants:
            started.append(stack.enter_context(contestant.serving(surroundings)))
            started[-1].rest()
        yield started


def _place_ingester(process: subprocess.Popen[bytes], places: Places) -> int:
    """Find llmproxy's ingester and give it its CPU."""
    deadline = time.monotonic() + processes.START_SECONDS
    while time.monotonic() < deadline:
        for pid in processes.tree(process.pid)[1:]:
            if processes.is_ingester(pid):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    if places.ingester:
                        os.sched_setaffinity(int(task.name), places.ingester)
                    if places.ingester_idle:
                        os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
                return pid
        time.sleep(processes.POLL_SECONDS)
    raise BenchmarkError("llmproxy started no ingester")
