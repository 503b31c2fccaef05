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

import httptools
import uvicorn
from uvicorn.server import ServerState

from llmproxy.client import EXTENSION, Head, Heads, KnownHead, size_of
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

    # With more than thirty attributes CPython gives up the quick way to find them in an object's dict.
    __slots__ = (
        "_ahead",
        "_answering",
        "_app_state",
        "_body_left",
        "_ending",
        "_fields",
        "_heads",
        "_in_head",
        "_keep_alive_seconds",
        "_known",
        "_last_head",
        "_length_at",
        "_limit_concurrency",
        "_look_seconds",
        "_metrics",
        "_muted",
        "_parser",
        "_reading_paused",
        "_receiving",
        "_refused",
        "_root_path",
        "_scope",
        "_server_state",
        "_since",
        "_take",
        "_timer",
        "_unparsed",
        "_unstarted",
        "_upgrade_ignored",
        "_url",
        "_waiting",
        "app",
        "drained",
        "loop",
        "tasks",
        "transport",
    )

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
        # What an app of ours takes before ASGI has a word: see `llmproxy.direct`.
        self._take = getattr(config.app, "take", None) if not config.root_path else None
        self._heads: Heads = getattr(config.app, "heads", None) or Heads()
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
        self._unstarted: Cycle | None = None  # which is the one that answers, when all that was read is parsed
        self._waiting: deque[Cycle] = deque()  # behind it (pipelining, RFC 9112 section 9.3.2)
        self._ahead = 0  # bytes that came since something waits
        self._refused = False  # nothing that comes is read any more
        self._ending = False
        self._known: KnownHead | None = None
        self._last_head: Head | None = None
        self._body_left = 0  # of a request that began with `_known`
        self._url = b""
        self._fields: list[Header] = []
        self._length_at = -1
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
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "root_path": self._root_path,
        }
        self._timer = self.loop.call_later(self._look_seconds, self._look)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        read = data
        between = not self._in_head and self._receiving is None
        if between:
            self._unparsed = 0
            if self._known is not None and (found := self._known.found_in(data)) is not None:
                length, data = found
                cycle = self._begin(self._known.head, length, keep_alive=True)
                self._body_left = int(length)
                if self._body_left == len(data) and cycle is self._unstarted:
                    # Nothing more of it will come, and nothing is before it: the way below takes a twentieth longer.
                    self._body_left, self._receiving, self._unstarted = 0, None, None
                    cycle.add(data)
                    cycle.whole = True
                    self._start(cycle)
                    return
                data = self._body_of_known(data)
        elif self._body_left:
            data = self._body_of_known(data)
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
            self._unstarted = None
            cause = exc.__context__
            wrong = cause if isinstance(cause, ProxyError) else ProxyError("bad_request", _reason(exc))
            self._refuse(wrong)
            return
        receiving = self._receiving
        if self._unparsed > self.head_bytes and (self._in_head or receiving is not None):
            self._refuse(self._too_large())
            return
        if receiving is not None:
            self._since = self.loop.time()
            receiving.received()
            if receiving.unread > MAX_UNREAD_BYTES:
                self.pause_reading()
        if self._waiting:
            self._ahead += len(read)
            if self._ahead > MAX_UNREAD_BYTES:
                self.pause_reading()
        unstarted, self._unstarted = self._unstarted, None
        if unstarted is not None:
            self._remember(unstarted, read if between else b"")
            self._start(unstarted)

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
        self._unstarted = None
        # No cycle of references is left for the collector, which comes seldom: see `server.GC_THRESHOLD`.
        self._receiving = None
        del self._parser

    def pause_writing(self) -> None:
        self.drained = self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        self._go_on()

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        if self._muted:
            return
        self._in_head = True
        self._since = self.loop.time()
        self._url = b""
        self._fields = []
        self._length_at = -1

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer (RFC 9110 section 6.5): it may be dropped
            if len(name) == 14 and name.lower() == b"content-length":
                self._length_at = len(self._fields)
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self._muted:
            return
        parser, fields = self._parser, self._fields
        length = None
        if self._length_at >= 0:
            name, length = fields[self._length_at]
            fields[self._length_at] = (name, b"")
        # Some of what was read may be the body.
        if self._unparsed > self.head_bytes and size_of(self._url, fields) > self.head_bytes:
            raise self._too_large()
        http_version = parser.get_http_version()
        head = self._heads.get(parser.get_method(), http_version, self._url, fields, self._length_at)
        self._unparsed = 0
        self._in_head = False
        self._upgrade_ignored = bool(parser.should_upgrade()) and _has_body(head.headers, length)
        self._begin(head, length, keep_alive=http_version == "1.1" and parser.should_keep_alive())

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
            cycle.task = None
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
            if self._receiving is None or self._ending:
                self.transport.close()
            else:
                self._linger()
            return
        if not self._in_head:
            self._since = self.loop.time()
        if self._waiting:
            # Not at once: one that is answered at once would begin the one behind it, and that one the next.
            self.loop.call_soon(self._go_on)
        else:
            self._go_on()

    def _linger(self) -> None:
        """Close when the client does, or has had its time: to close while it still sends would reset the connection,
        and it might lose the response that it has not read (RFC 9112 section 9.6)."""
        self._receiving = None
        self._since = self.loop.time()
        self.transport.write_eof()
        self.resume_reading()

    # -- for uvicorn's server

    def shutdown(self) -> None:
        """Close now, or when the response that is on its way is complete."""
        self._ending = True
        if self._answering is None:
            self.transport.close()

    # -- within

    def _go_on(self) -> None:
        """Begin the next request, or read it. Whoever leaves the responses unread gets no more of them."""
        if self._answering is not None or self._refused or self.transport.is_closing():
            return
        if self.drained is not None:
            self.pause_reading()
            return
        if self._waiting:
            self._start(self._waiting.popleft())
        if not self._waiting:
            self._ahead = 0
            self.resume_reading()

    def _begin(self, head: Head, length: bytes | None, *, keep_alive: bool) -> Cycle:
        """A request's head has come."""
        cycle = self._receiving = Cycle(self, head, length, keep_alive=keep_alive)
        if self._answering is None and not self._waiting:
            self._answering = self._unstarted = cycle
        else:
            # Read on all the same, or nobody would see the client go.
            self._waiting.append(cycle)
        return cycle

    def _remember(self, cycle: Cycle, read: bytes) -> None:
        """Have the parser spared a head that comes again and again: `read` began with this one."""
        head = cycle.head
        if head is self._last_head and cycle.keep_alive and (self._known is None or self._known.head is not head):
            self._known = KnownHead.of(head, cycle.length, read[: len(read) - cycle.unread])
        self._last_head = head

    def _body_of_known(self, data: bytes) -> bytes:
        """More of the body of a request whose head the parser did not see. Returns what is behind it."""
        piece = data[: self._body_left]
        self._body_left -= len(piece)
        if piece:
            self.on_body(piece)
        if not self._body_left:
            self.on_message_complete()
        return data[len(piece) :]

    def _start(self, cycle: Cycle) -> None:
        self._answering = cycle
        app = self.app
        limit = self._limit_concurrency
        if limit is not None and (len(self._server_state.connections) >= limit or len(self.tasks) >= limit):
            app = _service_unavailable
            self._count("overloaded")
        elif self._take is not None and (direct := self._take(cycle)) is not None:
            cycle.task = direct
            self.tasks.add(direct)
            direct.begin()
            return
        task = cycle.task = self.loop.create_task(cycle.run(app, self._scope_of(cycle)))
        self.tasks.add(task)

    def _scope_of(self, cycle: Cycle) -> dict[str, Any]:
        head = cycle.head
        return {
            **self._scope,
            "http_version": head.http_version,
            "method": head.method,
            "path": self._root_path + head.path,
            "raw_path": self._root_path.encode() + head.raw_path,
            "query_string": head.query,
            "headers": head.with_length(head.headers, cycle.length),
            "state": self._app_state.copy(),
            "extensions": {EXTENSION: cycle},
        }

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
            fields = self._receiving.fields if self._receiving is not None else []
            framing = [field for field in fields if field[0].lower() in (b"content-length", b"transfer-encoding")]
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
                self.transport.write(response_head(status, [*headers, (b"connection", b"close")]) + body)
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
        if self._receiving is not None and self._receiving is self._answering and not self._reading_paused:
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


def _has_body(headers: list[Header], length: bytes | None) -> bool:
    return length not in (None, b"0") or any(name == b"transfer-encoding" for name, _ in headers)


def _reason(exc: httptools.HttpParserError) -> str:
    text = str(exc)
    if not text or "callback" in text.lower():
        text = "its target cannot be read"
    return f"this is no request in HTTP: {text}"


async def _service_unavailable(scope: Any, receive: Any, send: Any) -> None:
    await ProxyError("overloaded", "there are more requests than the server was told to take").send(send)
