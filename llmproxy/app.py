"""The composition root of the serving process: from a configuration to one ASGI app."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmproxy import __version__, ask, metrics
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.spool_reader import backlog
from llmproxy.capture.tee import Tee
from llmproxy.client import DirectAnswer, DirectClient, Head, Heads
from llmproxy.config import Config
from llmproxy.direct import Direct
from llmproxy.errors import ProxyError
from llmproxy.forward import Forward
from llmproxy.guard import Guard
from llmproxy.loopback import is_loopback
from llmproxy.metrics import Metrics
from llmproxy.transports.asgi import Receive, Send
from llmproxy.upstreams import open_upstreams

Scope = MutableMapping[str, Any]

logger = logging.getLogger("llmproxy")

# Paths of ours, besides everything under /_llmproxy/. Nothing else hides a path of the provider.
HEALTH_PATHS = frozenset((b"/", b"/v1/health", b"/api/v1/health"))
OWN_PREFIX = b"/_llmproxy/"


class App:
    """The ASGI app: guard, then our own few paths, then forward. `create_app` makes one."""

    def __init__(self, config: Config, open_upstreams: Callable[[Config], Any] = open_upstreams) -> None:
        self._config = config
        self._open_upstreams = open_upstreams
        self._guard = Guard(config.security, loopback=is_loopback(config.host))
        self.metrics = Metrics()
        self.heads = Heads()
        self._forward: Forward | None = None
        self._direct: Direct | None = None
        self._own = Starlette(
            routes=[
                Route("/", _status("healthy"), methods=["GET", "HEAD"]),
                Route("/v1/health", _status("ok"), methods=["GET", "HEAD"]),
                Route("/api/v1/health", _status("ok"), methods=["GET", "HEAD"]),
                Route("/_llmproxy/metrics", self._metrics, methods=["GET"]),
                Route("/_llmproxy/version", _version, methods=["GET"]),
            ],
            lifespan=self._lifespan,
        )

    def take(self, client: DirectClient) -> DirectAnswer | None:
        """A request of our own server, before it is given to `__call__`: what will answer it, where that can be."""
        return self._direct.take(client) if self._direct is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._own(scope, receive, send)
            return
        path = scope["raw_path"]
        health = path in HEALTH_PATHS and scope["method"] in ("GET", "HEAD")
        try:
            caller = self._guard.admit(scope["headers"], open_to_all=health)
            if health or path.startswith(OWN_PREFIX):
                await self._own(scope, receive, send)
            elif (forward := self._forward) is None:
                raise ProxyError("shutting_down", "llmproxy is starting or ending; try again")
            else:
                if path == ask.PATH and scope["method"] == "POST":
                    scope, receive, caller = await ask.as_chat_completion(self._config.ask, scope, receive, caller)
                await forward(scope, receive, send, caller)
        except ProxyError as exc:
            self.metrics.refused[exc.code] += 1
            await exc.send(send)

    @asynccontextmanager
    async def _lifespan(self, own: Starlette) -> AsyncIterator[None]:
        capture = self._config.capture
        spool = (
            SpoolWriter(capture.spool_path, fsync=capture.fsync, on_error=self._spool_failed)
            if capture.active
            else None
        )
        tee = Tee(
            spool,
            self.metrics,
            max_body_bytes=capture.max_body_bytes,
            redact=frozenset(name.lower().encode() for name in capture.redact_headers),
            required=capture.on_spool_error == "refuse",
        )
        async with self._open_upstreams(self._config) as upstreams:
            self.heads = Heads()  # their plans name the upstreams
            self._forward = Forward(upstreams, tee)
            self._direct = Direct(self._guard, upstreams, tee, _is_ours)
            try:
                yield
            finally:
                self._forward = self._direct = None
                if spool is not None:
                    spool.close()

    def _spool_failed(self, error: OSError, records: int) -> None:
        self.metrics.spool_errors += 1
        self.metrics.spool_records_lost += records
        # Once for each power of two: a full disk fails every exchange, and the log may lie on the same disk.
        if self.metrics.spool_errors.bit_count() == 1:
            logger.error(
                "the spool %s cannot be written: %s; %d failures so far, %d records lost; forwarding %s",
                self._config.capture.spool_path,
                error.strerror,
                self.metrics.spool_errors,
                self.metrics.spool_records_lost,
                "is refused" if self._config.capture.on_spool_error == "refuse" else "goes on",
            )

    async def _metrics(self, request: Request) -> Response:
        gauges = {f"spool_{name}": value for name, value in backlog(self._config.capture.spool_path).items()}
        gauges["tasks"] = len(asyncio.all_tasks())
        return Response(self.metrics.render(gauges), media_type=metrics.CONTENT_TYPE.decode())


def _is_ours(head: Head) -> bool:
    path = head.raw_path
    return path in HEALTH_PATHS or path.startswith(OWN_PREFIX) or path == ask.PATH


def _status(status: str) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        return JSONResponse({"status": status})

    return health


async def _version(request: Request) -> Response:
    return JSONResponse({"version": __version__})


def create_app(config: Config | None = None) -> App:
    """The proxy as an ASGI app, from a configuration (default: `llmproxy.config.load()`).

    It records into the spool; something must ingest it: `llmproxy serve` starts an ingester, `llmproxy ingest` is one.
    """
    if config is None:
        from llmproxy.config import load

        config = load()
    return App(config)
