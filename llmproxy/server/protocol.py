"""One client's connection: an asyncio protocol around httptools' parser (llhttp), for uvicorn's server.

uvicorn's own protocol class costs more than all of forwarding: a timer, an event and a dozen writes and checks for each
request. This one starts the app when a head is complete, hands it what one read brought as one piece, sends the head of
a response together with what follows at once, and looks after all of a connection's deadlines with one slow timer. It
sends what the app says and nothing else: no `Server`, no `Date`, field names and reason as they are given.
"""

import asyncio
import logging
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from llmproxy.client import EXTENSION
from llmproxy.errors import ErrorCode, ProxyError
from llmproxy.headers import Header
from llmproxy.server.cycle import ASGI, Cycle, response_head

MAX_HEAD_BYTES = 64 * 1024
# How long a head may take from its first byte to its last, and how long a body may be silent.
HEAD_SECONDS = 20.0
BODY_SECONDS = 60.0
# How often a connection looks at its deadlines.
CHECK_SECONDS = 5.0
# Unread body above this stops the reading of the socket, and with it the client (TCP's back-pressure).
MAX_UNREAD_BYTES = 256 * 1024

logger = logging.getLogger("llmproxy")


class HTTPProtocol(asyncio.Protocol):
    """For `uvicorn.Config(http=HTTPProtocol)`; it honours `timeout_keep_alive`, `limit_concurrency`, `root_path` and
    the graceful shutdown. There are no WebSockets and no access log."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.app: ASGI = cast(ASGI, config.loaded_app)
        self._root_path = config.root_path
        self._limit_concurrency = config.limit_concurrency
        self._keep_alive_seconds = config.timeout_keep_alive
        self._check_seconds = min(CHECK_SECONDS, HEAD_SECONDS, BODY_SECONDS, float(config.timeout_keep_alive) or 0.01)
        self._app_state = app_state
        self._server_state = server_state
        self.tasks = server_state.tasks
        self._parser = httptools.HttpRequestParser(self)
        self._receiving: Cycle | None = None  # whose body is being read
        self._answering: Cycle | None = None  # whose app runs
        self._waiting: deque[tuple[Cycle, dict[str, Any]]] = deque()  # behind it (pipelining, RFC 9112 section 9.3.2)
        self._refused = False  # nothing that comes is read any more
        self._ending = False
        self._url = b""
        self._headers: list[Header] = []
        self._fields: list[Header] = []
        self._expects = False
        self._in_head = False
        self._head_bytes = 0
        self._since = self.loop.time()  # when what is waited for began to be waited for
        self._timer: asyncio.TimerHandle | None = None
        self.drained: asyncio.Future[None] | None = None
        """What to wait for before more is written."""
        self._reading_paused = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # a union of uvicorn's own classes
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "root_path": self._root_path,
        }
        self._timer = self.loop.call_later(self._check_seconds, self._check)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        length = len(data)
        if not self._in_head and self._receiving is None:
            self._in_head = True
            self._head_bytes = 0
            self._since = self.loop.time()
        self._head_bytes += length
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The app has the request and answers it as if nothing had been asked; what follows is not read as HTTP.
            self._refuse_more()
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            self._refuse(cause if isinstance(cause, ProxyError) else ProxyError("bad_request", f"no HTTP/1.1: {exc}"))
        else:
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_too_large())
            elif self._receiving is not None:
                self._since = self.loop.time()
                self._receiving.received()
                if self._receiving.unread > MAX_UNREAD_BYTES:
                    self.pause_reading()

    def eof_received(self) -> None:
        return None  # the transport closes; a client that sends no more is one that is gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._refused = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        for cycle in (self._answering, self._receiving):
            if cycle is not None:
                cycle.disconnect()
        self._waiting.clear()

    def pause_writing(self) -> None:
        self.drained = self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        self._in_head = True
        self._url = b""
        self._headers = []
        self._fields = []
        self._expects = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer (RFC 9110 section 6.5): it may be dropped
        lower = name.lower()
        field = (name, value)
        self._fields.append(field)
        self._headers.append(field if lower == name else (lower, value))
        if lower == b"expect" and value.lower() == b"100-continue":
            self._expects = True

    def on_headers_complete(self) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            if len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._fields) > MAX_HEAD_BYTES:
                raise _too_large()
            self._head_bytes = 0
        self._in_head = False
        parser = self._parser
        http_version = parser.get_http_version()
        raw_path, _, query = self._url.partition(b"?")
        if not raw_path.startswith(b"/"):
            raw_path, query = _path_of(self._url)
        path = raw_path.decode("ascii")
        scope = {
            **self._scope,
            "method": parser.get_method().decode("ascii"),
            "path": self._root_path + (unquote(path) if "%" in path else path),
            "raw_path": self._root_path.encode() + raw_path if self._root_path else raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        if http_version != "1.1":
            scope["http_version"] = http_version
        cycle = Cycle(
            self,
            self._url,
            self._fields,
            to_head=scope["method"] == "HEAD",
            http_1_0=http_version == "1.0",
            keep_alive=http_version == "1.1" and parser.should_keep_alive(),
            expects_continue=self._expects,
        )
        scope["extensions"] = {EXTENSION: cycle}
        self._receiving = cycle
        if self._answering is None:
            self._start(cycle, scope)
        else:
            self._waiting.append((cycle, scope))
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None:
            self._receiving.add(body)

    def on_message_complete(self) -> None:
        cycle, self._receiving = self._receiving, None
        self._head_bytes = 0
        if cycle is not None:
            cycle.whole = True
            cycle.received()

    # -- for the cycle

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self._since = self.loop.time()
            self.transport.resume_reading()

    def answered(self, keep_alive: bool) -> None:
        """The response is complete."""
        self._server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        if not keep_alive or self._ending or (self._refused and not self._waiting):
            self._refused = True
            self.transport.close()
            return
        if self._waiting:
            self._start(*self._waiting.popleft())
        if not self._waiting and not self._refused:
            self._since = self.loop.time()
            self.resume_reading()

    # -- for uvicorn's server

    def shutdown(self) -> None:
        """Close now, or when the response that is on its way is complete."""
        self._ending = True
        if self._answering is None:
            self.transport.close()

    # -- within

    def _start(self, cycle: Cycle, scope: dict[str, Any]) -> None:
        self._answering = cycle
        app = self.app
        limit = self._limit_concurrency
        if limit is not None and (len(self._server_state.connections) >= limit or len(self.tasks) >= limit):
            app = _service_unavailable
        task = cycle.task = self.loop.create_task(cycle.run(app, scope))
        self.tasks.add(task)

    def _refuse(self, error: ProxyError) -> None:
        """Answer a request that is none; where others before it are being answered, they are the last."""
        if not self.transport.is_closing() and self._answering is None:
            status, headers, body = error.response()
            self.transport.write(response_head(status, None, [*headers, (b"connection", b"close")]) + body)
            self.transport.close()
        elif self._receiving is not None:
            if self._receiving is self._answering:
                self.transport.abort()  # its body is broken, so its request is
            else:
                self._waiting.pop()  # it came last
        self._refuse_more()

    def _refuse_more(self) -> None:
        self._refused = True
        if self._answering is not None:
            self._answering.keep_alive = self._answering.keep_alive and bool(self._waiting)

    def _check(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        waited = self.loop.time() - self._since
        if self._in_head:
            if waited >= HEAD_SECONDS:
                self._refuse(ProxyError("request_timeout", f"the request's head took more than {HEAD_SECONDS:g} s"))
        elif self._receiving is not None:
            if waited >= BODY_SECONDS and not self._reading_paused:
                self.transport.abort()
        elif self._answering is None and waited >= self._keep_alive_seconds:
            self.transport.close()
        self._timer = self.loop.call_later(self._check_seconds, self._check)


def _address(address: Any) -> tuple[str, int | None] | None:
    if isinstance(address, (tuple, list)):
        return str(address[0]), int(address[1])
    return (address, None) if isinstance(address, str) and address else None


def _path_of(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target that is no path (RFC 9112 section 3.2)."""
    if target == b"*":
        return target, b""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise ProxyError("bad_request", "the request target is no path and no URL") from None
    return url.path or b"/", url.query or b""


def _too_large() -> ProxyError:
    code: ErrorCode = "request_head_too_large"
    return ProxyError(code, f"the request's head has more than {MAX_HEAD_BYTES} bytes")


async def _service_unavailable(scope: Any, receive: Any, send: Any) -> None:
    await ProxyError("overloaded", "there are more requests than the server was told to take").send(send)
