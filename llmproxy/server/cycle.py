"""One request and its response on a client's connection: for an ASGI app, or for what answers without (`direct`)."""

import asyncio
import http
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from llmproxy.client import DirectAnswer, Head
from llmproxy.errors import ProxyError
from llmproxy.headers import Header

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
    """A request as it is received and its response as it is sent: ASGI's, and that of a `DirectClient`."""

    __slots__ = (
        "_chunked",
        "_disconnected",
        "_ended",
        "_expects_continue",
        "_has_body",
        "_left",
        "_on_whole",
        "_pieces",
        "_protocol",
        "_told",
        "_transport",
        "_unsent",
        "_waiter",
        "_wants_whole",
        "head",
        "keep_alive",
        "length",
        "on_disconnect",
        "started",
        "task",
        "unread",
        "whole",
    )

    def __init__(self, protocol: "HTTPProtocol", head: Head, length: bytes | None, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self.head = head
        self.length = length
        self.on_disconnect: Callable[[], None] | None = None
        self._on_whole: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | DirectAnswer | None = None
        self.keep_alive = keep_alive
        self.whole = False
        """Whether all of the request's body has come."""
        self.unread = 0
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._wants_whole = False
        self._told = False  # the app has been given the end of the body
        self._expects_continue = head.expects_continue
        self._disconnected = False
        self.started = False
        self._ended = False
        self._unsent = b""  # the response's head
        self._has_body = head.method != "HEAD"  # the response; that to HEAD has none, whatever its fields say
        self._chunked = False
        self._left: int | None = None  # of a body whose length was announced

    @property
    def target(self) -> bytes:
        return self.head.target

    @property
    def fields(self) -> list[Header]:
        return self.head.with_length(self.head.fields, self.length)

    # -- for the protocol

    def add(self, piece: bytes) -> None:
        """More of the request's body has come."""
        if not self._ended:
            self._pieces.append(piece)
            self.unread += len(piece)

    def received(self) -> None:
        """Wake the app, if it waits for what has come."""
        if self.whole and self._on_whole is not None:
            self._protocol.loop.call_soon(self._on_whole)
            self._on_whole = None
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
            self.fail()
            raise
        except Exception as exc:
            logger.error("Exception in ASGI application\n", exc_info=exc)
            self.fail()
        else:
            if not self._ended and not self._disconnected:
                logger.error("ASGI callable returned without completing response.")
                self.fail()
        finally:
            self.leave()

    # -- ASGI

    async def receive(self) -> MutableMapping[str, Any]:
        if self._expects_continue and not self.whole and not self._transport.is_closing():
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
        return {"type": "http.request", "body": self.take(), "more_body": not self._told}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        while (drained := self._protocol.drained) is not None and not self._disconnected:
            await asyncio.shield(drained)  # others may wait for it too
        if self._disconnected:
            return
        if not self.started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{message['type']}'.")
            self._start(message)
            # What the app sends at once goes with the head; where it waits, the head goes alone.
            self._protocol.loop.call_soon(self.flush)
        elif self._ended or message["type"] != "http.response.body":
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}' sent, or the response is complete.")
        else:
            self.write(message.get("body", b""), message.get("more_body", False))

    # -- for both

    def take(self) -> bytes:
        """What has come of the request's body since the last time."""
        pieces, self._pieces, self.unread = self._pieces, [], 0
        self._told = self.whole
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def when_whole(self, callback: Callable[[], None]) -> bool:
        """Call back when all of the request's body has come. False where it is not to be waited for."""
        if self._expects_continue or self._length() > WHOLE_BODY_BYTES:
            return False
        self._on_whole = callback
        return True

    def start(
        self, status: int, lines: list[bytes], length: int | None, *, chunked: bool = False, closes: bool = False
    ) -> None:
        """Begin the response. `chunked`, `closes`: its fields say so. Raises `RuntimeError` for a line that is two."""
        if not self._has_body or status in (204, 304):
            length, chunked = 0, False
        elif length is None and not chunked:
            if self.head.http_version == "1.0":
                self.keep_alive = False  # the end of the body is the connection's
            else:
                chunked = True
                lines.append(b"transfer-encoding: chunked")
        self._left, self._chunked = length, chunked
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        self._unsent = joined(lines)
        self.started = True
        self._expects_continue = False

    def flush(self) -> None:
        """Send the head, where it has not gone with a piece of the body."""
        if self._unsent and not self._disconnected:
            head, self._unsent = self._unsent, b""
            self._transport.write(head)

    def write(self, piece: bytes, more: bool) -> asyncio.Future[None] | None:
        """Send a piece of the body. Returns what to wait for before the next, where the client does not read. Raises
        `RuntimeError` where it is not as long as the head says."""
        if self._disconnected:
            return None
        if self._chunked and more and not self._unsent and 0 < len(piece) <= JOINED_BYTES:  # most of a stream
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return self._protocol.drained
        head, self._unsent = self._unsent, b""
        if not self._has_body:
            piece = b""
        if self._chunked:
            end = b"" if more else b"0\r\n\r\n"
            if piece:
                before, after = b"%b%x\r\n" % (head, len(piece)), b"\r\n" + end
            else:
                before, after = head, end
        else:
            before, after = head, b""
            if self._left is not None:
                if len(piece) > self._left:
                    raise RuntimeError("Response content longer than Content-Length")
                self._left -= len(piece)
                if not more and self._left:
                    self._send(before, piece, after)
                    raise RuntimeError("Response content shorter than Content-Length")
        self._send(before, piece, after)
        if not more:
            self._ended = True
            self.on_disconnect = None
            self._pieces.clear()
            self.unread = 0  # what is left of the request's body is read and dropped
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            self._protocol.answered(self.keep_alive)
        return self._protocol.drained

    def answer(self, error: ProxyError) -> None:
        """The response is this error."""
        status, headers, body = error.response()
        self._start({"status": status, "headers": headers})
        self.write(body, False)

    def fail(self) -> None:
        """The client gets a broken connection, or, where nothing was sent, a 500."""
        if self._disconnected or self._ended:
            return
        if self.started:
            self.flush()
            if self._chunked or self._left is not None:
                self._transport.close()
            else:
                self._reset()
            return
        self.keep_alive = False
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        self._start({"status": 500, "headers": headers})
        self.write(body, False)

    def leave(self) -> None:
        """Nobody will do any more for this request."""
        self.on_disconnect = self._on_whole = None
        self._protocol.left(self)

    # -- within

    def _reset(self) -> None:
        """End the connection with an error, where its end alone would say that the response is whole (HTTP/1.0)."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _length(self) -> int:
        """The announced length of the request's body, or more than is taken whole where it is not known."""
        return int(self.length) if self.length is not None else WHOLE_BODY_BYTES + 1

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
        length: int | None = None
        chunked = closes = False
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            elif lower == b"connection" and b"close" in value.lower():
                closes = True
        lines = _lines(status, message.get("reason"), headers)
        self.start(status, lines, length, chunked=chunked, closes=closes)

    def _send(self, before: bytes, piece: bytes, after: bytes) -> None:
        if len(piece) <= JOINED_BYTES:
            data = before + piece + after
            if data:
                self._transport.write(data)
        else:
            self._transport.writelines([part for part in (before, piece, after) if part])


def response_head(status: int, headers: Sequence[Header]) -> bytes:
    """A response's head as bytes. Raises `RuntimeError` for fields that would begin another one."""
    return joined(_lines(status, None, headers))


def _lines(status: int, reason: bytes | None, headers: Sequence[Header]) -> list[bytes]:
    if reason is None:
        reason = REASONS.get(status, b"")
    return [b"HTTP/1.1 %d %b" % (status, reason), *[name + b": " + value for name, value in headers]]


def joined(lines: Sequence[bytes]) -> bytes:
    """Lines as a head. Raises `RuntimeError` for those that hold others."""
    head = b"\r\n".join((*lines, b"", b""))
    count = len(lines) + 1
    if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
        raise RuntimeError("Invalid HTTP header: it holds a line break or NUL.")
    return head
