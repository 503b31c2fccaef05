"""A chat completion that is sent while it is made, whole or streamed."""

import time
import uuid
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from llmproxy.errors import ResponseCut
from llmproxy.inprocess.connected import ClientGone, while_connected
from llmproxy.inprocess.openai_objects import DONE, Head, JsonObject, chat_completion_chunk, chat_delta, event


class CompletionResponse(Response):
    """The head waits for the first chunks: until then what goes wrong is told by the status, and after it by an event
    and a broken connection."""

    failures: ClassVar[tuple[type[Exception], ...]]
    """What may be raised on the way."""

    def __init__(self, model: str, *, stream: bool) -> None:
        self._stream = stream
        self._head = Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model)
        self.background = None

    @abstractmethod
    async def whole(self) -> JsonObject:
        """The chat completion. Raises one of `failures`."""

    @abstractmethod
    def chunks(self) -> AsyncGenerator[list[bytes]]:
        """The events of the stream as they come, those that are sent together in one list; the first, which tells the
        role, and the last ones are not among them. Raises one of `failures`."""

    @abstractmethod
    def last_chunks(self) -> list[bytes]:
        """The events after the answer: the finish reason, the usage."""

    @abstractmethod
    def error(self, failure: Exception) -> JsonObject:
        """What a failure is to the client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = self._send_stream(send) if self._stream else self._send_whole(scope, receive, send)
        try:
            await while_connected(sending, receive)
        except ClientGone:
            pass

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(await self.whole())(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        started = False

        async def put(*events: bytes, more: bool = True) -> None:
            nonlocal started
            if not started:
                started = True
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                events = (self.delta(role="assistant", content="", refusal=None), *events)
            await send({"type": "http.response.body", "body": b"".join(events), "more_body": more})

        try:
            async with aclosing(self.chunks()) as chunks:
                async for events in chunks:
                    await put(*events)
        except self.failures as exc:
            if not started:
                raise
            await put(event(self.error(exc)))
            # An error in the stream may go unread; a connection that breaks does not.
            raise ResponseCut(str(exc)) from exc
        await put(*self.last_chunks(), DONE, more=False)

    def delta(self, **delta: Any) -> bytes:
        """The event of a chunk that adds this to the message."""
        return event(chat_completion_chunk(self._head, [chat_delta(0, **delta)]))
