"""Forward: one exchange there and back, unchanged, under any ASGI server and over any httpx2 transport.

`Forward.__call__` reads like the life of a request: find the upstream, record the request, send it, pass the response
on piece by piece, and say how it ended. The client's disconnect is raced against all of it, from before the first byte:
the ASGI server only sets a flag when the client goes away, and `receive` is where it shows.

Between our own server and our own transport, `direct` does the same without a task.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, cast

import httpx2

from llmproxy.capture.exchange import Outcome
from llmproxy.capture.tee import Recording, RequestHead, SpoolError, Tee
from llmproxy.client import client_of
from llmproxy.errors import ErrorCode, ProxyError, ResponseCut
from llmproxy.guard import Caller
from llmproxy.headers import Header, Headers, get, request_headers, response_headers
from llmproxy.transports.asgi import Receive, Send
from llmproxy.transports.raw_headers import RawHeaders
from llmproxy.upstreams import Upstream, Upstreams

logger = logging.getLogger("llmproxy")


class Forward:
    """Forwards requests to `upstreams` and records them with `tee`."""

    def __init__(self, upstreams: Upstreams, tee: Tee) -> None:
        self._upstreams = upstreams
        self._tee = tee

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, caller: Caller) -> None:
        """Forward one ASGI request. Raises `ProxyError` while nothing was sent, `ResponseCut` after that."""
        client = client_of(scope)
        headers = scope["headers"]
        if is_websocket(headers):
            raise ProxyError("upgrade_required", "WebSockets are not relayed yet; use the HTTP API")
        raw_path, query = scope["raw_path"], scope["query_string"]
        upstream, path = self._upstreams.resolve(raw_path)
        behind = question(query, client.target if client is not None else b"")
        head = RequestHead(upstream.name, caller.client, scope["method"], raw_path + behind, headers)
        fields = client.fields if client is not None else headers
        try:
            recording = self._tee.begin(head)
        except SpoolError as exc:
            raise spool_unavailable(exc) from exc
        try:
            await self._exchange(scope["method"], fields, receive, send, caller, upstream, path + behind, recording)
        except ProxyError:
            recording.end("refused")
            raise
        finally:
            # Whatever else ends it, such as the server giving up at shutdown. Write-once: a real end has come first.
            recording.end("interrupted")

    async def _exchange(
        self,
        method: str,
        fields: Headers,
        receive: Receive,
        send: Send,
        caller: Caller,
        upstream: Upstream,
        target: bytes,
        recording: Recording,
    ) -> None:
        message = await receive()
        if message["type"] == "http.disconnect":
            recording.end("client_gone")
            return
        body = message.get("body", b"")
        recording.request_body(body)
        upload = _Upload(body, recording) if message.get("more_body", False) else None
        headers = headers_for(upstream, caller, fields)
        extensions = {"timeout": upstream.timeout, "target": target or b"/"}
        request = _Request(method, upstream.url, RawHeaders(headers), upload or httpx2.ByteStream(body), extensions)
        task = asyncio.current_task()
        assert task is not None
        watch = _ClientWatch(task, receive, upload)
        response: httpx2.Response | None = None
        started = False
        try:
            await recording.written()
            try:
                recording.request_written()
            except SpoolError as exc:
                raise spool_unavailable(exc) from exc
            response = await upstream.transport.handle_async_request(request)
            if (wrong := wrong_status(response.status_code)) is not None:
                raise wrong
            started = True
            recording.response(response.status_code, response.headers.raw)
            await _relay(request, response, send, recording)
        except httpx2.TransportError as exc:
            if recording.outcome is None:
                raise failure(exc, upstream, recording, response_started=started) from exc
        except asyncio.CancelledError:
            # The watch's cancelling ends here; the server's own, at the end of its grace, goes on.
            if not watch.client_gone or task.uncancel() > 0:
                raise
            recording.end("client_gone")
        finally:
            watch.stop()
            if response is not None:
                await _body(response).aclose()


def is_websocket(headers: Headers) -> bool:
    return (get(headers, b"upgrade") or b"").lower() == b"websocket"


def headers_for(upstream: Upstream, caller: Caller, fields: Headers) -> list[Header]:
    """The header fields to send upstream for those of the client."""
    replaced = upstream.replaced | caller.key_headers if caller.key_headers else upstream.replaced
    headers = request_headers(fields, upstream.host, upstream.defaults, replaced)
    if get(fields, b"transfer-encoding") is not None:
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def question(query: bytes, target: bytes) -> bytes:
    """What stands behind the path. An empty query, which ASGI's scope does not tell from none, is passed on too."""
    return b"?" + query if query or target.endswith(b"?") else b""


def wrong_status(status: int) -> httpx2.RemoteProtocolError | None:
    """What is wrong with the status of a final response (RFC 9110 section 15)."""
    if 200 <= status <= 599:
        return None
    return httpx2.RemoteProtocolError(f"the upstream answered with status {status}")


def spool_unavailable(error: SpoolError) -> ProxyError:
    return ProxyError("spool_unavailable", f"{error}, and capture.on_spool_error is refuse")


class _Request(httpx2.Request):
    """A request of parts that are known to be good: httpx2's constructor copies each, and changes the method's case,
    but methods are case-sensitive."""

    def __init__(
        self,
        method: str,
        url: httpx2.URL,
        headers: httpx2.Headers,
        stream: httpx2.AsyncByteStream,
        extensions: dict[str, Any],
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.stream = stream
        self.extensions = extensions


async def _relay(request: httpx2.Request, response: httpx2.Response, send: Send, recording: Recording) -> None:
    status = response.status_code
    # RFC 9110 section 6.4.1: these have no body, whatever their fields say.
    expected = 0 if request.method == "HEAD" or status in (204, 304) else _content_length(response)
    if expected == 0:
        # The head is all that the client gets, so the exchange is on disk before it.
        await _complete(recording, started=False)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": response_headers(response.headers.raw, status),
            "reason": response.extensions.get("reason_phrase"),
        }
    )
    ended = expected == 0
    if not ended:
        async for piece in _body(response):
            recording.response_body(piece)
            if expected is not None and recording.response_bytes > expected:
                raise httpx2.RemoteProtocolError("the body is longer than its Content-Length says")
            ended = recording.response_bytes == expected
            if ended:
                # Before the client has the last byte the exchange is on disk: promise 1.
                await _complete(recording, started=True)
            await send({"type": "http.response.body", "body": piece, "more_body": not ended})
    if not ended and expected is not None:
        raise httpx2.RemoteProtocolError("the body is shorter than its Content-Length says")
    if not ended:
        await _complete(recording, started=True)
    if not ended or expected == 0:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _complete(recording: Recording, *, started: bool) -> None:
    try:
        await recording.complete()
    except SpoolError as exc:
        # Only where what cannot be recorded is refused: without its last byte the client knows that it failed.
        if started:
            raise ResponseCut(str(exc)) from exc
        raise spool_unavailable(exc) from exc


def _body(response: httpx2.Response) -> httpx2.AsyncByteStream:
    return cast(httpx2.AsyncByteStream, response.stream)  # a check costs more here than all the rest of this function


def _content_length(response: httpx2.Response) -> int | None:
    value = get(response.headers.raw, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


_FAILURES: tuple[tuple[type[httpx2.TransportError], Outcome, ErrorCode], ...] = (
    (httpx2.TimeoutException, "timeout", "upstream_timeout"),
    (httpx2.ProtocolError, "upstream_protocol", "upstream_protocol"),
    (httpx2.TransportError, "upstream_unreachable", "upstream_unreachable"),
)


def failure(
    exc: httpx2.TransportError, upstream: Upstream, recording: Recording, *, response_started: bool
) -> ProxyError | ResponseCut:
    """End the exchange with the upstream's failure. Returns what the client is to learn of it."""
    outcome, code = next((outcome, code) for kind, outcome, code in _FAILURES if isinstance(exc, kind))
    if isinstance(exc, httpx2.LocalProtocolError):
        recording.end("refused", str(exc))
        return ProxyError("bad_request", f"the request cannot be forwarded: {exc}")
    reason = str(exc) or type(exc).__name__
    if response_started:
        recording.end("timeout" if outcome == "timeout" else "upstream_cut", reason)
        logger.warning("upstream %s broke off its response: %s", upstream.name, reason)
        return ResponseCut(reason)
    recording.end(outcome, reason)
    logger.warning("upstream %s: %s: %s", upstream.name, code, reason)
    return ProxyError(code, f"upstream {upstream.name} ({upstream.host.decode()}): {reason}")


class _Upload(httpx2.AsyncByteStream):
    """A request body on its way: what the watch received and the transport has not yet taken."""

    def __init__(self, first: bytes, recording: Recording) -> None:
        self._pieces = deque([first] if first else [])
        self._recording = recording
        self._changed = asyncio.Event()
        self._ended = False

    async def put(self, message: MutableMapping[str, Any]) -> None:
        """Take a piece; returns when the next one is wanted, so that the client is not read ahead of the upstream."""
        body = message.get("body", b"")
        if body:
            self._recording.request_body(body)
            self._pieces.append(body)
        self._ended = not message.get("more_body", False)
        self._changed.set()
        while self._pieces and not self._ended:
            self._changed.clear()
            await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._changed.set()
                yield piece
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()


class _ClientWatch:
    """Waits in `receive`, and cancels the forwarding task when the client goes away.

    Plain asyncio in place of anyio's cancel scope, which took a fifth of the time of a short request. It is sound
    because the watch is stopped in the same step in which forwarding ends, so that it cannot strike later.
    """

    def __init__(self, task: asyncio.Task[Any], receive: Receive, upload: _Upload | None) -> None:
        self._task = task
        self._watching: asyncio.Task[None] | None = task.get_loop().create_task(self._run(receive, upload))
        self.client_gone = False

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None  # how it was cancelled refers to us

    async def _run(self, receive: Receive, upload: _Upload | None) -> None:
        """The only caller of `receive` while an exchange is in flight: feeds the upload, and notices the end."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.client_gone = True
                self._task.cancel()
                return
            if upload is not None:
                await upload.put(message)
