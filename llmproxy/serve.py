"""Serving: the server process (or several), and the ingester beside it."""

import gc
import json
import logging
import multiprocessing
import multiprocessing.process
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from llmproxy.app import App
from llmproxy.capture.spool import make_folder
from llmproxy.config import CaptureConfig, Config, ConfigError
from llmproxy.errors import ResponseCut
from llmproxy.loopback import is_loopback
from llmproxy.server.protocol import HTTPProtocol
from llmproxy.upstreams import load_app

# Longer than what clients' pools keep an idle connection for (httpx 5 s, browsers 60 s or so): it is then the client
# that closes it, and no request meets a connection that we are closing.
KEEP_ALIVE_SECONDS = 75
DRAIN_SECONDS = 10.0
GC_THRESHOLD = 20_000
OPEN_FILES = 65536
END_AT_ONCE = signal.SIGUSR1  # a second signal, from the parent to its workers

logger = logging.getLogger("llmproxy")


class ServeError(Exception):
    """Serving failed while running; one line for the user."""


def check_startable(config: Config) -> None:
    """Refuse what could not work, before anything is started. Raises `ConfigError`."""
    security = config.security
    if not is_loopback(config.host) and not security.clients and not security.insecure:
        raise ConfigError(
            f"host: {config.host} can be reached from other machines, and anyone there could use your keys:"
            " set security.clients, or pass --insecure if that is meant"
        )
    for name, upstream in config.upstreams.items():
        if upstream.app is not None:
            load_app(upstream.app, upstream.options, name)
    if config.capture.active:
        check_recordable(config.capture)


def check_recordable(capture: CaptureConfig) -> None:
    """Refuse a database or a spool that can never be written. Raises `ConfigError`."""
    database = capture.database_path
    try:
        make_folder(database.parent)
        if database.is_dir():
            raise ConfigError(f"capture.database: {database} is a folder; name a file in it")
        if database.exists():
            with database.open("rb") as file:
                head = file.read(16)
            if head and head != b"SQLite format 3\0":  # https://www.sqlite.org/fileformat.html#the_database_header
                raise ConfigError(f"capture.database: {database} is not a SQLite database; name another file")
        _probe(database.parent)
    except OSError as exc:
        raise ConfigError(
            f"capture.database: {database}: the folder cannot be written: {exc.strerror}; name another with --database"
        ) from None
    spool = capture.spool_path
    try:
        make_folder(spool)
        _probe(spool)
    except OSError as exc:
        raise ConfigError(f"capture.spool: {spool} cannot be written: {exc.strerror}; choose another folder") from None


def _probe(folder: Path) -> None:
    # One name for all: what a killed process left is the next one's, and two at once do not mind each other.
    probe = folder / ".llmproxy-probe"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    probe.unlink(missing_ok=True)


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises `ServeError` where the address is taken, `ConfigError` where there is none such."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ConfigError(f"host: {config.host}: {exc.strerror}") from None
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(4096)
    except OSError as exc:
        sock.close()
        raise ServeError(
            f"cannot listen on {config.host}:{config.port}: {exc.strerror}; choose another port with --port"
        ) from None
    return sock


def end_well_when_told() -> None:
    """From now on, and until the server has handlers of its own, a signal to end is a good end."""

    def end(sig: int, frame: FrameType | None) -> None:
        sys.exit(0)

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, end)


def allow_many_connections() -> None:
    """Lift the limit on open files as far as the system lets us: the usual 1024 is about 500 exchanges in flight."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(config: Config, sock: socket.socket) -> None:
    """Serve until told to end, with an ingester beside where capture is active. Raises `ServeError`."""
    allow_many_connections()
    ingester = IngesterProcess(config.capture) if config.capture.active else None
    if ingester is not None:
        ingester.start()
    hurried = True
    try:
        hurried = _run_server(config, sock)
    finally:
        sock.close()
        if ingester is not None:
            ingester.stop(0.0 if hurried else DRAIN_SECONDS)


def _run_server(config: Config, sock: socket.socket) -> bool:
    """Returns whether a second signal asked to end at once."""
    if config.workers > 1:
        return Workers(config, sock).run()
    server = Server(_server_config(config))
    try:
        server.run(sockets=[sock])
    except SystemExit as exc:  # uvicorn's way to say that the app's lifespan failed
        if exc.code != STARTUP_FAILURE:
            raise
    if not server.started:
        raise ServeError("the server did not start; see the message above")
    return server.force_exit


def _server_config(config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        App(config),
        http=HTTPProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=config.shutdown_grace,  # type: ignore[arg-type]  # a float serves too
        backlog=4096,
    )


class Server(uvicorn.Server):
    """uvicorn's server, which ends well when told to: exit code 0, and at once on a second signal of any kind."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What was loaded until here stays, so the collector need not look at it ever again; and it looks at what is
        # young less often, for hardly any of it is in a cycle. It took a tenth of a short request's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 50, 100)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again at the end, so that the process would seem to have died of it.
        before = {
            sig: signal.signal(sig, self.handle_exit)
            for sig in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(sig) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


class WorkerServer(Server):
    """A worker's server. Only its parent tells it to end at once: systemd sends its one SIGTERM to every process of a
    service, so that one more comes from the parent (systemd.kill(5), KillMode=control-group)."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == END_AT_ONCE:
            self.force_exit = True
        self.should_exit = True


class Workers:
    """Several server processes on one listening socket. One that dies is replaced; when we die, they end too."""

    def __init__(self, config: Config, sock: socket.socket) -> None:
        self._config = config
        self._sock = sock
        self._context = multiprocessing.get_context("spawn")
        self._signals = 0

    def run(self) -> bool:
        """Serve until told to end. Returns whether a second signal asked to end at once."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, lambda number, frame: self._told(wake))
        workers = [self._spawn() for _ in range(self._config.workers)]
        pause = 0.0
        while not self._signals:
            ready = wait([woken, *(worker.sentinel for worker in workers)])
            if self._signals:
                break
            for at, worker in enumerate(workers):
                if worker.sentinel in ready:
                    logger.error("worker %s ended with code %s; starting another", worker.pid, worker.exitcode)
                    time.sleep(pause)  # nobody waits for this process, and a worker that cannot start must not spin
                    pause = min(pause + 0.5, 5.0)
                    workers[at] = self._spawn()
        self._sock.close()  # else it would go on taking connections that nobody serves
        told = 0
        while alive := [worker for worker in workers if worker.is_alive()]:
            while told < min(self._signals, 2):
                told += 1
                for worker in alive:
                    assert worker.pid is not None
                    os.kill(worker.pid, signal.SIGTERM if told == 1 else END_AT_ONCE)
            os.read(woken, 1) if woken in wait([woken, *(worker.sentinel for worker in alive)]) else None
        return self._signals > 1

    def _told(self, wake: int) -> None:
        self._signals += 1
        os.write(wake, b".")

    def _spawn(self) -> multiprocessing.process.BaseProcess:
        worker = self._context.Process(target=_work, args=(self._config, self._sock), name="llmproxy worker")
        worker.start()
        return worker


def _work(config: Config, sock: socket.socket) -> None:
    set_up_logging()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on as SIGTERM
    server = WorkerServer(_server_config(config))
    signal.signal(END_AT_ONCE, server.handle_exit)
    server.run(sockets=[sock])
    sys.exit(0 if server.started else 1)


def _end_with(parent: int) -> None:
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)


class IngesterProcess:
    """Keeps one ingester running: starts it again when it dies, tells it to drain and end by closing its input.

    The input is a pipe that we alone hold, so an ingester also drains and ends when we are killed.
    """

    def __init__(self, capture: CaptureConfig) -> None:
        self._settings = json.dumps(capture.model_dump(mode="json")).encode() + b"\n"
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="ingester", daemon=True)

    def start(self) -> None:
        self._process = self._spawn()
        self._thread.start()

    def stop(self, patience: float) -> None:
        """Let it drain and end. After `patience` seconds it is killed: what is left stays in the spool."""
        self._ending.set()
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A process group of its own: Ctrl-C in the terminal is for us, and the ingester ends after us. No session of
        # its own: Linux may weigh sessions against each other before processes (sched(7), autogroup).
        process = subprocess.Popen(
            [sys.executable, "-m", "llmproxy", "ingest", "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        assert process.stdin is not None
        try:
            process.stdin.write(self._settings)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once; `_watch` tells and starts another
        return process

    def _watch(self) -> None:
        pause = 0.5
        while True:
            assert self._process is not None
            code = self._process.wait()
            if self._ending.is_set():
                return
            logger.error("the ingester ended with code %d; exchanges wait in the spool; starting it again", code)
            if self._ending.wait(pause):
                return
            pause = min(pause * 2, 30.0)
            self._process = self._spawn()


class _NotACut(logging.Filter):
    """Leaves out uvicorn's traceback for a response that we broke off on purpose: it has been told in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ResponseCut))


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error, one line a message. Libraries speak of trouble only: some log URLs with keys."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("llmproxy").setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_NotACut())
