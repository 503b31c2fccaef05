"""Several serving processes on one socket, and the parent that looks after them."""

import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import wait
from types import FrameType

from llmproxy.app import App
from llmproxy.config import Config
from llmproxy.console import set_up_logging
from llmproxy.server.server import Server, server_config

END_AT_ONCE = signal.SIGUSR1  # a second signal, from the parent to its workers

logger = logging.getLogger("llmproxy")


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
    server = WorkerServer(server_config(App(config), config))
    signal.signal(END_AT_ONCE, server.handle_exit)
    server.run(sockets=[sock])
    sys.exit(0 if server.started else 1)


def _end_with(parent: int) -> None:
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
