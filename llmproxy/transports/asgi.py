"""An in-process ASGI app as an httpx2 transport that streams.

httpx2's own `ASGITransport` collects the whole answer before it gives it back; this one hands on each piece as the app
sends it, and tells the app when nobody reads any more.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import httpx2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger("llmproxy")

# How long an app that was told `http.disconnect` may take before its task is cancelled.
DISCONNECT_GRACE_SECONDS = 5.0


class ClientDisconnected(OSError):
    """What `send` raises in the app once nobody reads its answer (ASGI specification 2.4, `send`)."""


class ASGITransport(httpx2.AsyncBaseTransport):
    """Sends requests to `app`. As an async context manager it also runs the app's lifespan.

    Raises what httpx2's transports raise: `RemoteProtocolError` for an app that fails or misbehaves before its
    response began, `ReadError` from the stream after that, `ReadTimeout` for one that says nothing for too long.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()
        self._lifespan = _Lifespan(app)

    async def __aenter__(self) -> Self:
        await self._lifespan.startup()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._lifespan.shutdown()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeout = (request.extensions.get("timeout") or {}).get("read")
        call = _Call(request, self._lifespan.state, timeout)
        call.task = asyncio.get_running_loop().create_task(call.run(self._app))
        self._tasks.add(call.task)
        call.task.add_done_callback(self._tasks.discard)
        try:
            await call.wait(lambda: call.status is not None)
        except BaseException:
            call.disconnect()
            raise
        assert call.status is not None
        return httpx2.Response(call.status, headers=call.headers, stream=_Stream(call))


class _Call:
    """One request to the app: what the app sent and nobody has read, and a bell that rings when something changes."""

    def __init__(self, request: httpx2.Request, state: Mapping[str, Any], read_timeout: float | None) -> None:
        self._request = request
        self._state = state
        self._read_timeout = read_timeout
        self._changed = asyncio.Event()
        self._disconnected = asyncio.Event()
        self._read = asyncio.Event()
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        self._body: AsyncIterator[bytes] | None = aiter(request.stream)
        self._next: asyncio.Task[bytes | None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: deque[bytes] = deque()
        self.complete = False
        self.failure: BaseException | None = None

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope(), self.receive, self.send)
            if not self.complete and not self._disconnected.is_set():
                self.failure = RuntimeError("the app returned before its response was complete")
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            if self._disconnected.is_set():
                return
            self.failure = RuntimeError("the app was cancelled")
            raise
        except Exception as exc:  # whatever a user's app raises is the upstream's failure, not ours
            if self.complete:
                logger.exception("the app failed after its response was complete")
            self.failure = exc
        finally:
            if self._next is not None:
                self._next.cancel()
            self._changed.set()

    def _scope(self) -> dict[str, Any]:
        request = self._request
        target: bytes = request.extensions.get("target", request.url.raw_path)
        path, _, query = target.partition(b"?")
        return {
            "type": "http",
            # As uvicorn says. By 2.4 Starlette's streams would learn only from their next `send` that nobody reads.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": None,
            # A copy for each request (ASGI specification, lifespan protocol, "Lifespan State").
            "state": dict(self._state),
        }

    async def receive(self) -> Message:
        if self._body is not None and not self._disconnected.is_set():
            if isinstance(self._request.stream, httpx2.ByteStream):
                self._body = None
                return {"type": "http.request", "body": b"".join(self._request.stream), "more_body": False}
            piece = await self._next_of(self._body)
            if not self._disconnected.is_set():
                self._body = self._body if piece is not None else None
                return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _next_of(self, body: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of the request's body, or None at its end, or where the client went meanwhile.

        It is awaited in a task of its own, because an app may give up on `receive` and call it again (Starlette's
        `is_disconnected` does): cancelling an async generator would end the body there, and it would look whole.
        """
        loop = asyncio.get_running_loop()
        if self._next is None:
            self._next = loop.create_task(_anext(body))
        disconnected = loop.create_task(self._disconnected.wait())
        try:
            await asyncio.wait((self._next, disconnected), return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
        if not self._next.done():
            return None
        done, self._next = self._next, None
        return done.result()

    async def send(self, message: Message) -> None:
        if self._disconnected.is_set():
            raise ClientDisconnected("nobody reads the response any more")
        if message["type"] == "http.response.start":
            if self.status is not None:
                raise RuntimeError("the response was started twice")
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            _refuse_line_breaks(headers)
            self.headers = headers
            self.status = int(message["status"])
        elif message["type"] == "http.response.body":
            if self.status is None or self.complete:
                raise RuntimeError("a piece of the body was sent outside of the response")
            if message.get("body"):
                self.pieces.append(bytes(message["body"]))
            self.complete = not message.get("more_body", False)
        self._changed.set()
        while self.pieces and not self.complete:  # one piece at a time: the app goes no faster than its reader
            self._read.clear()
            await self._read.wait()
            if self._disconnected.is_set():
                raise ClientDisconnected("nobody reads the response any more")

    async def wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self.failure is not None:
                what = f"the app failed: {type(self.failure).__name__}: {self.failure}"
                if self.status is None:
                    raise httpx2.RemoteProtocolError(what) from self.failure
                raise httpx2.ReadError(what) from self.failure
            self._changed.clear()
            try:
                async with asyncio.timeout(self._read_timeout):
                    await self._changed.wait()
            except TimeoutError:
                raise httpx2.ReadTimeout(f"the app was silent for {self._read_timeout:g} seconds") from None

    async def next_piece(self) -> bytes | None:
        await self.wait(lambda: bool(self.pieces) or self.complete)
        if not self.pieces:
            return None
        piece = self.pieces.popleft()
        self._read.set()
        return piece

    def disconnect(self) -> None:
        self._disconnected.set()
        self._read.set()
        if self.task is not None and not self.task.done() and not self.complete:
            asyncio.get_running_loop().call_later(DISCONNECT_GRACE_SECONDS, self.task.cancel)


async def _anext(body: AsyncIterator[bytes]) -> bytes | None:
    return await anext(body, None)


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._call.next_piece()) is not None:
            yield piece

    async def aclose(self) -> None:
        self._call.disconnect()


def _refuse_line_breaks(headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if not name or any(byte in name + value for byte in b"\r\n\0"):
            raise ValueError(f"the header field {name!r} holds a line break or nothing")


class _Lifespan:
    """The app's lifespan (ASGI specification, lifespan protocol). An app that has none is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._started = False
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            raise RuntimeError(f"the app did not start: {answer.get('message', '')}")
        self._started = answer is not None

    async def shutdown(self) -> None:
        if self._task is not None:
            answer = await self._ask("lifespan.shutdown")
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                logger.error("the app did not end well: %s", answer.get("message", ""))
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.4"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._answers.put)
        except Exception:
            # The specification: an exception at startup means that the app does not support the lifespan protocol.
            if self._started:
                logger.exception("the app's lifespan failed")

    async def _ask(self, kind: str) -> Message | None:
        assert self._task is not None
        await self._messages.put({"type": kind})
        answer = asyncio.get_running_loop().create_task(self._answers.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None
