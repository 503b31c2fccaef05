"""One HTTP/1.1 connection to an upstream: an asyncio protocol around httptools' parser (llhttp).

It carries one exchange at a time. What the parser says is kept until somebody asks for it; nothing here runs in a task
of its own. What one read of the socket brought is handed out as one piece, and what several brought where a stream had
to wait for its turn (see `turns`).
"""

import asyncio
import select
from collections.abc import Callable
from typing import cast

import httptools
import httpx2

from llmproxy.headers import Header
from llmproxy.transports.turns import Turns

# Unread body above this stops the reading of the socket, and with it the upstream (TCP's back-pressure).
MAX_UNREAD_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM_RESPONSES = 16
# Of a stream, what may wait for its turn: small pieces, not a download.
MAX_WAITING_BYTES = 16 * 1024
# Above this, joining costs more than a list for `writev`.
JOINED_BYTES = 16 * 1024


class Connection(asyncio.Protocol):
    """A connection. `release` is called once when an exchange has ended well and the connection can take another."""

    # With more than thirty attributes CPython gives up the quick way to find them in an object's dict.
    __slots__ = (
        "_chunked",
        "_deadline",
        "_discard",
        "_drained",
        "_goes_on",
        "_has_turn",
        "_head_bytes",
        "_interim",
        "_keep_alive",
        "_lengths",
        "_loop",
        "_method",
        "_on_change",
        "_on_piece",
        "_parser",
        "_pieces",
        "_poll",
        "_reading_paused",
        "_release",
        "_timeout",
        "_timer",
        "_transport",
        "_turns",
        "_unread",
        "_until_close",
        "_waiter",
        "_waiting",
        "closed",
        "complete",
        "failure",
        "head_complete",
        "headers",
        "idle_since",
        "on_body",
        "peer",
        "reason",
        "sending",
        "status",
    )

    def __init__(
        self,
        peer: str,
        turns: Turns,
        release: Callable[["Connection"], None],
        discard: Callable[["Connection"], None],
    ) -> None:
        self.peer = peer
        self._turns = turns
        self._release = release
        self._discard = discard
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._waiting = b""  # was read, and has its turn to come
        self._has_turn = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # for the parser
        self._parser = self._new_parser()
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._timeout: float | None = None
        self.closed = False
        self.idle_since = 0.0
        self._begin("")

    def _begin(self, method: str) -> None:
        self._method = method
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []
        self._lengths: set[bytes] = set()
        self._chunked = False
        self._head_bytes = 0  # of what the parser keeps: a head, trailers
        self._interim = 0
        self.head_complete = False
        self.complete = False
        self._until_close = False
        self._keep_alive = False
        self._pieces.clear()
        self._unread = 0
        self._reading_paused = False
        self._on_change: Callable[[], None] | None = None
        self._on_piece: Callable[[bytes], None] | None = None
        self._goes_on = False  # the response has begun, and its client has something of it
        self.sending = False
        self.failure: httpx2.TransportError | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._timeout is not None:
            self._deadline = self._loop.time() + self._timeout
        if not self._goes_on:
            self._receive(data)
            return
        self._waiting = data = self._waiting + data if self._waiting else data
        if len(data) > MAX_WAITING_BYTES:
            self._catch_up()
        elif not self._has_turn:
            self._has_turn = True
            self._turns.add(self._take_turn)

    def _take_turn(self) -> None:
        self._has_turn = False
        try:
            self._catch_up()
        except BaseException:
            # As the loop does where `data_received` raises: nobody is to take the rest for the whole.
            if self._transport is not None:
                self._transport.abort()
            raise

    def _catch_up(self) -> None:
        data = self._waiting
        if data:
            self._waiting = b""
            self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self.complete or not self._method:
            # Bytes that no request asked for: the connection cannot be trusted with the next one (RFC 9112 section 9).
            self.abort()
            return
        in_body = self.head_complete
        if not in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx2.RemoteProtocolError(f"{self.peer} switched protocols, which nobody asked for"))
        except httptools.HttpParserError as exc:
            if self.complete:
                self._keep_alive = False  # rubbish behind a whole response
            else:
                cause = exc.__context__ if isinstance(exc.__context__, httpx2.RemoteProtocolError) else None
                self._fail(cause or httpx2.RemoteProtocolError(f"{self.peer} does not speak HTTP/1.1: {exc}"))
        pieces = self._pieces
        on_piece = self._on_piece if in_body and not self.complete and self.failure is None else None
        if on_piece is not None and pieces:
            self._head_bytes = 0
            self._goes_on = True
            on_piece(self._take_pieces())
            return
        if in_body:
            self._head_bytes = 0 if pieces else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.complete:
            self._fail(self._head_too_large())
        elif on_piece is not None:
            return
        if pieces:
            if self._method == "HEAD":
                pieces.clear()
                self._keep_alive = False
            self._unread += len(data)  # with its framing
            if self._unread > MAX_UNREAD_BYTES and not self._reading_paused and self._transport is not None:
                self._reading_paused = True
                self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._catch_up()
        if self._until_close and self.head_complete:
            self.complete = True
            self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._catch_up()
        finally:
            self._lost(exc)

    def _lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.complete and self._method and self.failure is None:
            if self._until_close and self.head_complete and exc is None:
                self.complete = True
            elif exc is not None:
                self.failure = httpx2.ReadError(f"the connection to {self.peer} broke: {exc}")
            else:
                what = "in the middle of its response" if self.head_complete else "without a response"
                self.failure = httpx2.RemoteProtocolError(f"{self.peer} closed the connection {what}")
        self._discard(self)
        self._wake()
        self.resume_writing()
        del self._parser  # it refers to us

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        # What comes behind a whole response was asked for by nobody; taken for the next one's, it would be smuggled in.
        if self.complete:
            raise httpx2.RemoteProtocolError(f"{self.peer} sent more than its response")

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            return  # a trailer (RFC 9112 section 7.1.2); it may be dropped
        length = len(name)
        if length == 14 and name.lower() == b"content-length":
            if b"," in value:
                self._lengths.update(part.strip() for part in value.split(b","))
            else:
                self._lengths.add(value)
        elif length == 17 and name.lower() == b"transfer-encoding":
            self._chunked = True
            if value.strip().lower() != b"chunked":
                raise httpx2.RemoteProtocolError(f"{self.peer} uses a transfer coding that is not chunked")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise httpx2.RemoteProtocolError(f"{self.peer} sends interim responses without end")
            self.headers, self._lengths, self._chunked, self.reason = [], set(), False, b""
            self._head_bytes = 0
            return
        if self._head_bytes > MAX_HEAD_BYTES:  # some of what was read may be the body
            size = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                raise self._head_too_large()
        if self._lengths and (self._chunked or len(self._lengths) > 1):
            # RFC 9112 section 6.3: two framings are how responses are smuggled.
            raise httpx2.RemoteProtocolError(f"{self.peer} frames its response in two ways")
        if b"\0" in self.reason:
            raise httpx2.RemoteProtocolError(f"{self.peer} sent a reason phrase with NUL in it")
        self.status = status
        self.head_complete = True
        self._head_bytes = 0
        self._keep_alive = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # The parser cannot be told that no body follows, so it is left where it is, and says what would hold if
            # one did (RFC 9112 section 9.3).
            version = self._parser.get_http_version()
            self._parser = self._new_parser()
            self.complete = True
            connection = httpx2.Headers(self.headers).get("connection") or ""
            options = [option.strip().lower() for option in connection.split(",")]
            self._keep_alive = "close" not in options and (version != "1.0" or "keep-alive" in options)
        elif not self._chunked and not self._lengths and status not in (204, 304):
            self._until_close = True
            self._keep_alive = False

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            self._goes_on = False

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # White space may stand before a chunk's extension (RFC 9112 section 7.1.1), and some servers pad with it. The
        # client gets chunks of our own making.
        parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        return parser

    def _head_too_large(self) -> httpx2.RemoteProtocolError:
        what = "trailers" if self.head_complete else "a head"
        return httpx2.RemoteProtocolError(f"{self.peer} sent {what} of more than {MAX_HEAD_BYTES} bytes")

    # -- for the transport

    @property
    def length(self) -> int | None:
        """Of the response's body, where its `Content-Length` says it."""
        return int(next(iter(self._lengths))) if self._lengths else None

    def usable(self) -> bool:
        """Whether an idle connection can take a request: open, and with nothing to read, not even its end."""
        return self._is_open() and not self._poll.poll(0)

    def _is_open(self) -> bool:
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def begin(self, method: str, head: bytes, body: bytes) -> None:
        """Send a request's head and as much of its body as is known."""
        self._begin(method)
        assert self._transport is not None
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send more of the body; waits while the upstream does not take it."""
        if self._is_open() and self._poll.poll(0):
            # It says something already, such as that the body is too large, and may have closed. To write where nobody
            # reads any more would end the connection before that is read.
            await asyncio.sleep(0)
        if self.closed or self._transport is None:
            raise httpx2.WriteError(f"{self.peer} closed the connection while the request was sent")
        self._transport.write(data)
        if self._timeout is not None:
            self._deadline = self._loop.time() + self._timeout  # an upstream that is still being told is not silent
        if self._drained is not None:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.shield(self._drained)
            except TimeoutError:
                raise httpx2.WriteTimeout(f"{self.peer} did not take the request for {timeout:g} seconds") from None

    async def wait_head(self, timeout: float | None) -> None:
        """Wait for the response's head. Raises what went wrong."""
        while not self.head_complete:
            if self.failure is not None:
                raise self.failure
            await self._wait(timeout)

    async def read(self, timeout: float | None) -> bytes:
        """What has come of the body since the last call; b"" at its end. Raises what went wrong."""
        while not self.readable:
            if self.failure is not None:
                raise self.failure
            await self._wait(timeout)
        return self.take()

    def watch(self, on_change: Callable[[], None], on_piece: Callable[[bytes], None], timeout: float | None) -> None:
        """Call back when something has come: with a piece of the body where that is all, else (the head, the end, a
        failure) without, for `take`. Of a response that has begun, when it is its turn. The silence between two reads
        is at most `timeout` seconds. Ends with the exchange, or with `unwatch`."""
        self._on_change = on_change
        self._on_piece = on_piece
        self._time(timeout)

    def unwatch(self) -> None:
        self._on_change = self._on_piece = None

    def take(self) -> bytes:
        """What `read` gives, where it would not wait."""
        if not self._pieces:
            self.finish()
            return b""
        piece = self._take_pieces()
        self._unread = 0
        if self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = False
            self._transport.resume_reading()
        if self.complete:
            self.finish()
        return piece

    def _take_pieces(self) -> bytes:
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return piece

    @property
    def readable(self) -> bool:
        """Whether `read` would not wait."""
        return bool(self._pieces) or self.complete

    @property
    def ended(self) -> bool:
        """Whether the response is whole and all of it was read."""
        return self.complete and not self._pieces

    def finish(self) -> None:
        """The response was read to its end: the connection is free, if it may be used again."""
        if self._method:
            self._method = ""
            self.unwatch()
            if self._keep_alive and not self.sending and not self.closed:
                self._release(self)
            else:
                self.abort()

    def abort(self) -> None:
        """Close at once; what is not sent is dropped."""
        self._method = ""
        self.unwatch()
        self.failure = None  # it has been raised, and its traceback refers to us
        if self._transport is not None and not self.closed:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._method = ""
        if self._transport is not None:
            self._transport.close()

    def fail(self, exc: httpx2.TransportError) -> None:
        """The sending of the request went wrong: whoever waits for the response learns it, unless there is one."""
        if not self.head_complete:
            self._fail(exc)

    def _fail(self, exc: httpx2.TransportError) -> None:
        if self.failure is None:
            self.failure = exc
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if not self.head_complete and self.failure is None:
            return
        waiter = self._waiter
        if self._on_change is not None:
            self._on_change()
        elif waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self, timeout: float | None) -> None:
        self._waiter = self._loop.create_future()
        self._time(timeout)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _time(self, timeout: float | None) -> None:
        before, self._timeout = self._timeout, timeout
        if timeout is not None and not self.closed:
            self._deadline = self._loop.time() + timeout
            if self._timer is not None and (before is None or timeout < before):
                self._timer.cancel()  # it would look too late: another upstream at the same address may wait longer
                self._timer = None
            if self._timer is None:
                self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        # One timer for all waits: it looks whether its time has really come, and else sleeps on.
        self._timer = None
        self._catch_up()  # the loop may have been held up since it came
        if (self._waiter is None and self._on_change is None) or self.closed or self._timeout is None:
            return
        if self._loop.time() >= self._deadline:
            self._fail(httpx2.ReadTimeout(f"{self.peer} was silent for {self._timeout:g} seconds"))
        else:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
