"""One request and its response on a client's connection: ASGI's `receive` and `send`."""

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from llmproxy.headers import Header, get

if TYPE_CHECKING:
    from llmproxy.server.protocol import HTTPProtocol

ASGI = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

# A body of a known length up to this is handed over whole: one piece on its way costs less than four.
WHOLE_BODY_BYTES = 256 * 1024
# Above this, joining costs more than a list for `writev`.
JOINED_BYTES = 16 * 1024

REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}

# uvicorn's, so that what filters or formats its messages finds ours too.
logger = logging.getLogger("uvicorn.error")


class Cycle:
    """A request as it is received and its response as it is sent. It is the `Client` of `llmproxy.client` too."""

    __slots__ = (
        "_chunked",
        "_disconnected",
        "_ended",
        "_expects_continue",
        "_has_body",
        "_head",
        "_http_1_0",
        "_left",
        "_pieces",
        "_protocol",
        "_told",
        "_transport",
        "_waiter",
        "_wants_whole",
        "fields",
        "keep_alive",
        "on_disconnect",
        "started",
        "target",
        "task",
        "unread",
        "whole",
    )

    def __init__(
        self,
        protocol: "HTTPProtocol",
        target: bytes,
        fields: list[Header],
        *,
        to_head: bool,
        http_1_0: bool,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self.target = target
        self.fields = fields
        self.on_disconnect: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.keep_alive = keep_alive
        self.whole = False
        """Whether all of the request's body has come."""
        self.unread = 0
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._wants_whole = False
        self._told = False  # the app has been given the end of the body
        self._expects_continue = expects_continue
        self._disconnected = False
        self.started = False
        self._ended = False
        self._head = b""
        self._has_body = not to_head  # the response; that to HEAD has none, whatever its fields say
        self._http_1_0 = http_1_0
        self._chunked = False
        self._left: int | None = None  # of a body whose length was announced

    # -- for the protocol

    def add(self, piece: bytes) -> None:
        """More of the request's body has come."""
        if not self._ended:
            self._pieces.append(piece)
            self.unread += len(piece)

    def received(self) -> None:
        """Wake the app, if it waits for what has come."""
        waiter = self._waiter
        if waiter is not None and (self.whole or (self._pieces and not self._wants_whole)):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def disconnect(self) -> None:
        """The client is gone."""
        if self._ended or self._disconnected:
            return
        self._disconnected = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.on_disconnect is not None:
            self.on_disconnect()

    async def run(self, app: ASGI, scope: MutableMapping[str, Any]) -> None:
        """Run the app. Whatever it does, the client gets a whole response or a broken connection."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:  # the server's, at the end of its grace
            self._fail()
            raise
        except Exception as exc:
            logger.error("Exception in ASGI application\n", exc_info=exc)
            self._fail()
        else:
            if not self._ended and not self._disconnected:
                logger.error("ASGI callable returned without completing response.")
                self._fail()
        finally:
            self.on_disconnect = None
            self._protocol.left(self)

    # -- ASGI

    async def receive(self) -> MutableMapping[str, Any]:
        if self._expects_continue and not self.started and not self._transport.is_closing():
            self._expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._told and not self.whole and not self._disconnected:
            self._protocol.resume_reading()
            self._wants_whole = self._length() <= WHOLE_BODY_BYTES
            while not self.whole and not self._disconnected and (self._wants_whole or not self._pieces):
                await self._wait()
        elif self._told:
            while not self._disconnected and not self._ended:
                await self._wait()
        if self._disconnected or self._ended:
            return {"type": "http.disconnect"}
        pieces, self._pieces, self.unread = self._pieces, [], 0
        self._told = self.whole
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": not self._told}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        while (drained := self._protocol.drained) is not None and not self._disconnected:
            await asyncio.shield(drained)  # others may wait for it too
        if self._disconnected:
            return
        if not self.started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{message['type']}'.")
            self._start(message)
        elif self._ended or message["type"] != "http.response.body":
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}' sent, or the response is complete.")
        else:
            self._body(message.get("body", b""), message.get("more_body", False))

    def write(self, piece: bytes) -> bool:
        if not self._disconnected:
            self._body(piece, True)
        return self._protocol.drained is None and not self._disconnected

    # -- within

    def _length(self) -> int:
        """The announced length of the request's body, or more than is taken whole where it is not known."""
        length = get(self.fields, b"content-length")
        return int(length) if length is not None else WHOLE_BODY_BYTES + 1

    async def _wait(self) -> None:
        waiter = self._waiter = self._protocol.loop.create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def _start(self, message: MutableMapping[str, Any]) -> None:
        status: int = message["status"]
        headers = list(message.get("headers", ()))
        closes = False
        for name, value in headers:
            length = len(name)
            if length == 14 and name.lower() == b"content-length":
                self._left = int(value)
            elif length == 17 and name.lower() == b"transfer-encoding":
                self._chunked = value.lower() == b"chunked"
            elif length == 10 and name.lower() == b"connection" and b"close" in value.lower():
                closes = True
        if not self._has_body or status in (204, 304):
            self._left, self._chunked = 0, False
        elif self._left is None and not self._chunked:
            if self._http_1_0:
                self.keep_alive = False  # the end of the body is the connection's
            else:
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        self._head = response_head(status, message.get("reason"), headers)
        self.started = True
        self._expects_continue = False
        if not message.get("with_body"):
            # What the app sends at once goes with the head; where it waits, the head goes alone.
            self._protocol.loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        if self._head and not self._disconnected:
            head, self._head = self._head, b""
            self._transport.write(head)

    def _body(self, body: bytes, more_body: bool) -> None:
        head, self._head = self._head, b""
        if not self._has_body:
            body = b""
        if self._chunked:
            end = b"" if more_body else b"0\r\n\r\n"
            if body:
                before, after = b"%b%x\r\n" % (head, len(body)), b"\r\n" + end
            else:
                before, after = head, end
        else:
            before, after = head, b""
            if self._left is not None:
                if len(body) > self._left:
                    raise RuntimeError("Response content longer than Content-Length")
                self._left -= len(body)
                if not more_body and self._left:
                    self._flush_now(before, body, after)
                    raise RuntimeError("Response content shorter than Content-Length")
        self._flush_now(before, body, after)
        if not more_body:
            self._ended = True
            self.on_disconnect = None
            self._pieces.clear()
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            self._protocol.answered(self.keep_alive)

    def _flush_now(self, before: bytes, body: bytes, after: bytes) -> None:
        if len(body) <= JOINED_BYTES:
            data = before + body + after
            if data:
                self._transport.write(data)
        else:
            self._transport.writelines([piece for piece in (before, body, after) if piece])

    def _fail(self) -> None:
        if self._disconnected or self._ended:
            return
        if self.started:
            # Aborted where the connection's end would else say that the response is whole.
            self._flush_head()
            if self._chunked or self._left is not None:
                self._transport.close()
            else:
                self._transport.abort()
            return
        self.keep_alive = False
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self._start({"status": 500, "headers": headers})
        self._body(body, False)


def response_head(status: int, reason: bytes | None, headers: Sequence[Header]) -> bytes:
    """A response's head as bytes. Raises `RuntimeError` for fields that would begin another one."""
    if reason is None:
        reason = REASONS.get(status, b"")
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines += [name + b": " + value for name, value in headers]
    count = len(lines)
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != count + 1 or head.count(b"\r") != count + 1 or b"\0" in head:
        raise RuntimeError("Invalid HTTP header: it holds a line break or NUL.")
    return head
