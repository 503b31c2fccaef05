"""uvicorn's server with our protocol, and with our manners at the end."""

import asyncio
import ctypes
import gc
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from llmproxy.config import Config
from llmproxy.server.cycle import ASGI
from llmproxy.server.protocol import HTTPProtocol

# Longer than what clients' pools keep an idle connection for (httpx 5 s, browsers 60 s or so): it is then the client
# that closes it, and no request meets a connection that we are closing.
KEEP_ALIVE_SECONDS = 75
GC_THRESHOLD = 20_000

# mallopt(3). A body of more than 128 KB is memory of its own by default, new for each request, and the system's work
# for its pages cost twice as much as all of ours; so such memory is kept for the next one, up to this much.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 16 * 1024 * 1024
KEPT_PIECE_BYTES = 4 * 1024 * 1024


def server_config(app: ASGI, config: Config) -> uvicorn.Config:
    """What uvicorn is to do; the app has its lifespan."""
    return uvicorn.Config(
        app,
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


def keep_freed_memory() -> bool:
    """Let glibc keep up to `KEPT_BYTES` of what is freed. False where the C library is another."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, KEPT_PIECE_BYTES))


class Server(uvicorn.Server):
    """uvicorn's server, which ends well when told to: exit code 0, and at once on a second signal of any kind."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        keep_freed_memory()
        # What was loaded until here stays, so the collector need not look at it ever again; and it looks at what is
        # young less often, for hardly any of it is in a cycle. It took a tenth of a short request's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 50, 100)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # The end of the loop cancels tasks; what answers without one is told here, and ends in the next step.
            for answering in list(self.server_state.tasks):
                answering.cancel()
            await asyncio.sleep(0)

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
