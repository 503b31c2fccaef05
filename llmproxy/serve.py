"""Serving: the server process (or several), and the ingester beside it."""

import logging
import resource
import signal
import socket
import sys
from types import FrameType

from uvicorn.config import STARTUP_FAILURE

from llmproxy.app import App
from llmproxy.config import Config, ConfigError
from llmproxy.server.server import Server, server_config
from llmproxy.supervisor import IngesterProcess
from llmproxy.workers import Workers

OPEN_FILES = 65536

logger = logging.getLogger("llmproxy")


class ServeError(Exception):
    """Serving failed while running; one line for the user."""


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
            ingester.stop(at_once=hurried)


def _run_server(config: Config, sock: socket.socket) -> bool:
    """Returns whether a second signal asked to end at once."""
    if config.workers > 1:
        return Workers(config, sock).run()
    server = Server(server_config(App(config), config))
    try:
        server.run(sockets=[sock])
    except SystemExit as exc:  # uvicorn's way to say that the app's lifespan failed
        if exc.code != STARTUP_FAILURE:
            raise
    if not server.started:
        raise ServeError("the server did not start; see the message above")
    return server.force_exit
