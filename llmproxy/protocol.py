"""The server's side of HTTP/1.1: uvicorn's protocol, with bounds on what a client may make us keep and wait for.

uvicorn leaves three things to a server in front of it, and llmproxy is that server. It waits for ever for a head or a
body that comes slowly or not at all, and for the first byte of a connection. It keeps a head of any size. And after an
`Upgrade` that it does not follow, it drops the request's body and everything after it: Java's own HTTP client asks for
such an upgrade (h2c) with each request.

What is wrong is answered with `{"error": …}` and the end of the connection; a response that has begun is cut, never
written into.
"""

import asyncio
import logging
from collections import Counter
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmproxy.errors import ErrorCode, ProxyError

# As nginx has them: client_header_timeout, client_body_timeout (https://nginx.org/en/docs/http/ngx_http_core_module.html).
HEAD_SECONDS = 60.0
"""For a whole head, from its first byte."""
BODY_SECONDS = 60.0
"""Between two reads of a body, while we are reading."""
HEAD_BYTES = 64 * 1024
"""For a head, and for what stands between the pieces of a body in chunks: extensions and trailers."""

logger = logging.getLogger("llmproxy")


class _Refused(Exception):
    """Raised through the parser, which hides it: `BoundedProtocol._refusal` has what it says."""


class BoundedProtocol(HttpToolsProtocol):
    """One client's connection. Its times are attributes, so that a test may shorten them."""

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    head_bytes = HEAD_BYTES

    _watch: asyncio.TimerHandle | None = None
    _since = 0.0  # when the head began, the body went on, or the connection became idle
    _in_head = False
    _in_body = False
    _unread = 0  # bytes since the last that made a body or ended a head
    _refusal: ProxyError | None = None
    _upgrade_ignored = False
    _muted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._watch = self.loop.call_later(min(self.head_seconds, self.body_seconds), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._in_body:
            self._since = self.loop.time()
        self._unread += len(data)
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as exc:
                    data = data[exc.args[0] :]
                    self._go_on_without_upgrade()
        except httptools.HttpParserError as exc:
            self._refuse(self._refusal or ProxyError("bad_request", f"this is no HTTP/1.1 request: {_reason(exc)}"))
            return
        if self._unread > self.head_bytes and (self._in_head or self._in_body):
            self._refuse(self._too_large())

    # What the parser calls
    def on_message_begin(self) -> None:
        if not self._muted:
            super().on_message_begin()
            self._in_head = True
            self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        if not self._muted:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._muted:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._muted:
            return
        self._refusal = self._wrong_with_head()
        if self._refusal is not None:
            raise _Refused
        self._in_head, self._in_body = False, True
        self._unread = 0
        self._upgrade_ignored = bool(self.parser.should_upgrade()) and _has_body(self.headers)
        super().on_headers_complete()
        # What the parser gives from now on is trailers, and no part of the head that was admitted.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_ignored:
            return  # the parser believes that what follows is another protocol; it is the body
        self._in_body = False
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self._in_head and not self._in_body:
            self._since = self.loop.time()
        super().on_response_complete()

    def _wrong_with_head(self) -> ProxyError | None:
        """What the parser lets pass and RFC 9112 does not, or does not say how to understand."""
        names = [name for name, _ in self.headers]
        if self._unread > self.head_bytes and self._head_size() > self.head_bytes:  # what was read may be the body
            return self._too_large()
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return ProxyError("bad_request", f"HTTP/{version} is not spoken here; use HTTP/1.1")
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and version == "1.1"):  # section 3.2
            return ProxyError("bad_request", f"a request has one Host, and this one has {hosts}")
        if b"transfer-encoding" in names:
            codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if codings != [b"chunked"] or version == "1.0":  # sections 6.1, 7
                return ProxyError("bad_request", "the only transfer coding that is understood is chunked, in HTTP/1.1")
        return None

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> ProxyError:
        return ProxyError("head_too_large", f"the request's head, or its trailers, exceed {self.head_bytes} bytes")

    def _go_on_without_upgrade(self) -> None:
        """The upgrade is not followed, as a server may choose (RFC 9110 section 7.8); the parser cannot be told before,
        so another one goes on where it stopped: at the body, if there is one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if self._upgrade_ignored:
            self._upgrade_ignored = False
            framing = [(n, v) for n, v in self.scope["headers"] if n in (b"content-length", b"transfer-encoding")]
            self._muted = True
            try:
                self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % f for f in framing))
            finally:
                self._muted = False

    # What does not come
    def _look(self) -> None:
        """Look after a connection that may have fallen silent, from time to time rather than with each request."""
        if self.transport.is_closing():
            return
        now = self.loop.time()
        refusal = None
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_body and not self.flow.read_paused:
            due = self._since + self.body_seconds
            refusal = ProxyError("request_timeout", f"nothing of the request's body came for {self.body_seconds:g} s")
        elif answering:
            # It is we who keep the client waiting, or who do not read.
            self._since = now
            due = now + self.body_seconds
        elif self._in_head:
            due = self._since + self.head_seconds
            refusal = ProxyError("request_timeout", f"the request's head took longer than {self.head_seconds:g} s")
        else:
            due = self._since + self.timeout_keep_alive
        if now < due:
            self._watch = self.loop.call_later(min(due - now, self.head_seconds, self.body_seconds), self._look)
        elif refusal is not None:
            self._refuse(refusal)
        else:
            self.transport.close()

    def _refuse(self, error: ProxyError) -> None:
        """Answer with the error, where an answer can still be told for what it is, and close."""
        self._count(error.code)
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        if not self.pipeline:
            status, headers, body = error.response()
            head = b"".join(b"%b: %b\r\n" % field for field in (*headers, (b"connection", b"close")))
            self.transport.write(b"HTTP/1.1 %d \r\n%b\r\n%b" % (status, head, body))
        if self.cycle is not None:
            # Nothing more is to be written by who handles the request; it sees that the client is gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _count(self, code: ErrorCode) -> None:
        metrics: Any = getattr(self.config.app, "metrics", None)
        refused: Counter[str] | None = getattr(metrics, "refused", None)
        if refused is not None:
            refused[code] += 1
        logger.debug("refused a request of %s: %s", self.client, code)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


def _reason(exc: httptools.HttpParserError) -> str:
    text = str(exc)
    return "its target cannot be read" if not text or "callback" in text.lower() else text
