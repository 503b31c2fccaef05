"""One client's connection: an asyncio protocol around httptools' parser (llhttp), for uvicorn's server.

uvicorn's own protocol class costs more than all of forwarding: a timer, an event and a dozen writes and checks for each
request. This one starts the app when a head is complete, hands it what one read brought as one piece, sends the head of
a response together with what follows at once, and looks after all of a connection's deadlines with one slow timer. It
sends what the app says and nothing else: no `Server`, no `Date`, field names and reason as they are given.

What a client may make us keep and wait for is bounded. What is wrong is answered with `{"error": …}` and the end of the
connection; a response that has begun is cut, never written into. An `Upgrade` is not followed, and the request that
asks for it is read to its end: Java's own HTTP client asks for one (h2c) with each request.
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
from llmproxy.metrics import Metrics
from llmproxy.server.cycle import ASGI, Cycle, response_head

# As nginx has them: client_header_timeout, client_body_timeout (https://nginx.org/en/docs/http/ngx_http_core_module.html).
HEAD_SECONDS = 60.0
"""For a whole head, from its first byte."""
BODY_SECONDS = 60.0
"""Between two reads of a body, while we are reading."""
HEAD_BYTES = 64 * 1024
"""For a head, and for what stands between the pieces of a body in chunks: extensions and trailers."""
# Unread body above this stops the reading of the socket, and with it the client (TCP's back-pressure).
MAX_UNREAD_BYTES = 256 * 1024

logger = logging.getLogger("llmproxy")


class HTTPProtocol(asyncio.Protocol):
    """For `uvicorn.Config(http=HTTPProtocol)`; it honours `timeout_keep_alive`, `limit_concurrency`, `root_path` and
    the graceful shutdown. There are no WebSockets and no access log. Its bounds are attributes, so that a test may
    narrow them."""

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    head_bytes = HEAD_BYTES

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.app: ASGI = cast(ASGI, config.loaded_app)
        self._metrics = getattr(config.app, "metrics", None)
        self._root_path = config.root_path
        self._limit_concurrency = config.limit_concurrency
        self._keep_alive_seconds = config.timeout_keep_alive
        # No deadline is shorter, so a look this often misses none.
        self._look_seconds = min(self.head_seconds, self.body_seconds, float(config.timeout_keep_alive) or 0.01)
        self._app_state = app_state
        self._server_state = server_state
        self.tasks = server_state.tasks
        self._parser = self._new_parser()
        self._receiving: Cycle | None = None  # whose body is being read
        self._answering: Cycle | None = None  # whose app runs
        self._waiting: deque[tuple[Cycle, dict[str, Any]]] = deque()  # behind it (pipelining, RFC 9112 section 9.3.2)
        self._refused = False  # nothing that comes is read any more
        self._ending = False
        self._url = b""
        self._headers: list[Header] = []
        self._fields: list[Header] = []
        self._codings: list[bytes] = []
        self._hosts = 0
        self._expects = False
        self._in_head = False
        self._unparsed = 0  # bytes since the last that made a body or ended a head
        self._upgrade_ignored = False
        self._muted = False
        self._since = self.loop.time()  # when the head began, the body went on, or the connection became idle
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
        self._timer = self.loop.call_later(self._look_seconds, self._look)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_head and self._receiving is None:
            self._unparsed = 0
        self._unparsed += len(data)
        try:
            while data:
                try:
                    self._parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as exc:
                    data = data[exc.args[0] :]
                    self._go_on_without_upgrade()
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            wrong = cause if isinstance(cause, ProxyError) else ProxyError("bad_request", _reason(exc))
            self._refuse(wrong)
            return
        receiving = self._receiving
        if self._unparsed > self.head_bytes and (self._in_head or receiving is not None):
            self._refuse(self._too_large())
        elif receiving is not None:
            self._since = self.loop.time()
            receiving.received()
            if receiving.unread > MAX_UNREAD_BYTES:
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
        # No cycle of references is left for the collector, which comes seldom: see `server.GC_THRESHOLD`.
        self._receiving = None
        del self._parser

    def pause_writing(self) -> None:
        self.drained = self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        if self._muted:
            return
        self._in_head = True
        self._since = self.loop.time()
        self._url = b""
        self._headers = []
        self._fields = []
        self._codings = []
        self._hosts = 0
        self._expects = False

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer (RFC 9110 section 6.5): it may be dropped
        lower = name.lower()
        field = (name, value)
        self._fields.append(field)
        self._headers.append(field if lower == name else (lower, value))
        if lower == b"host":
            self._hosts += 1
        elif lower == b"transfer-encoding":
            self._codings.append(value.strip().lower())
        elif lower == b"expect" and value.lower() == b"100-continue":
            self._expects = True

    def on_headers_complete(self) -> None:
        if self._muted:
            return
        self._check_head()
        self._unparsed = 0
        self._in_head = False
        parser = self._parser
        http_version = parser.get_http_version()
        self._upgrade_ignored = bool(parser.should_upgrade()) and _has_body(self._headers)
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
        self._unparsed = 0
        if self._receiving is not None:
            self._receiving.add(body)

    def on_message_complete(self) -> None:
        if self._upgrade_ignored:
            return  # the parser believes that what follows is another protocol; it is the body
        cycle, self._receiving = self._receiving, None
        self._unparsed = 0
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

    def left(self, cycle: Cycle) -> None:
        """The app has returned, whether it has answered or not."""
        if cycle.task is not None:
            self.tasks.discard(cycle.task)
        if self._answering is cycle:
            self._answering = None

    def answered(self, keep_alive: bool) -> None:
        """The response is complete."""
        self._server_state.total_requests += 1
        self._answering = None
        if self.transport.is_closing():
            return
        if not keep_alive or self._ending:
            self._refused = True
            self.transport.close()
            return
        if self._waiting:
            self._start(*self._waiting.popleft())
        if not self._waiting:
            if not self._in_head:
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
            self._count("overloaded")
        task = cycle.task = self.loop.create_task(cycle.run(app, scope))
        self.tasks.add(task)

    def _check_head(self) -> None:
        """What the parser lets pass and RFC 9112 does not, or does not say how to understand. Raises `ProxyError`."""
        if self._unparsed > self.head_bytes:  # some of what was read may be the body
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._fields)
            if size > self.head_bytes:
                raise self._too_large()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise ProxyError("bad_request", f"HTTP/{version} is not spoken here; use HTTP/1.1")
        if self._hosts > 1 or (self._hosts == 0 and version == "1.1"):  # section 3.2
            raise ProxyError("bad_request", f"a request has one Host, and this one has {self._hosts}")
        if self._codings and (self._codings != [b"chunked"] or version == "1.0"):  # sections 6.1, 7
            raise ProxyError("bad_request", "the only transfer coding that is understood is chunked, in HTTP/1.1")

    def _too_large(self) -> ProxyError:
        return ProxyError("head_too_large", f"the request's head, or its trailers, exceed {self.head_bytes} bytes")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows `Connection: close` is never answered, so it need not be told from rubbish.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _go_on_without_upgrade(self) -> None:
        """The upgrade is not followed, as a server may choose (RFC 9110 section 7.8); the parser cannot be told before,
        so another one goes on where it stopped: at the body, if there is one."""
        self._parser = self._new_parser()
        if self._upgrade_ignored:
            self._upgrade_ignored = False
            framing = [field for field in self._headers if field[0] in (b"content-length", b"transfer-encoding")]
            self._muted = True
            try:
                self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % f for f in framing))
            finally:
                self._muted = False

    def _refuse(self, error: ProxyError) -> None:
        """Answer with the error, where an answer can still be told for what it is, and close."""
        if self.transport.is_closing():
            return
        self._refused = True
        self._count(error.code)
        answering, receiving = self._answering, self._receiving
        if answering is not None and answering.started:
            self.transport.abort()
        else:
            if not self._waiting and (answering is not None or receiving is None):
                status, headers, body = error.response()
                self.transport.write(response_head(status, None, [*headers, (b"connection", b"close")]) + body)
            self.transport.close()
        if answering is not None:
            answering.disconnect()  # at once: nothing more is to be written, or sent upstream as if it were whole

    def _count(self, code: ErrorCode) -> None:
        if isinstance(self._metrics, Metrics):
            self._metrics.refused[code] += 1
        logger.debug("refused a request of %s: %s", self._scope["client"], code)

    def _look(self) -> None:
        """Look after a connection that may have fallen silent, from time to time rather than with each request."""
        self._timer = None
        if self.transport.is_closing():
            return
        now = self.loop.time()
        refusal = None
        if self._receiving is not None and not self._reading_paused:
            due = self._since + self.body_seconds
            refusal = ProxyError("request_timeout", f"nothing of the request's body came for {self.body_seconds:g} s")
        elif self._answering is not None:
            # It is we who keep the client waiting, or who do not read.
            self._since = now
            due = now + self._look_seconds
        elif self._in_head:
            due = self._since + self.head_seconds
            refusal = ProxyError("request_timeout", f"the request's head took longer than {self.head_seconds:g} s")
        else:
            due = self._since + self._keep_alive_seconds
        if now < due:
            self._timer = self.loop.call_later(min(due - now, self._look_seconds), self._look)
        elif refusal is not None:
            self._refuse(refusal)
        else:
            self.transport.close()


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


def _has_body(headers: list[Header]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _reason(exc: httptools.HttpParserError) -> str:
    text = str(exc)
    if not text or "callback" in text.lower():
        text = "its target cannot be read"
    return f"this is no request in HTTP: {text}"


async def _service_unavailable(scope: Any, receive: Any, send: Any) -> None:
    await ProxyError("overloaded", "there are more requests than the server was told to take").send(send)
