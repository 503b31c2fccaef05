"""A model's answer as a chat completion, whole or streamed."""

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from llmproxy.errors import ResponseCut
from llmproxy.inprocess.connected import ClientGone, while_connected
from llmproxy.inprocess.llm_models_answer import ModelFailed, NoKey
from llmproxy.inprocess.llm_models_pieces import Finished, Piece
from llmproxy.inprocess.llm_models_request import Call
from llmproxy.inprocess.openai_objects import (
    DONE,
    Head,
    JsonObject,
    chat_choice,
    chat_completion,
    chat_completion_chunk,
    chat_delta,
    error_object,
    event,
)


class Completion(Response):
    """The chat completion, sent while the model answers. The head waits for its first piece: until then what goes wrong
    is told by the status."""

    def __init__(self, call: Call, name: str, pieces: Callable[[], AsyncGenerator[Piece | Finished]]) -> None:
        self._call = call
        self._pieces = pieces
        self._head = Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), name)
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = self._send_stream(send) if self._call.stream else self._send_whole(scope, receive, send)
        try:
            await while_connected(sending, receive)
        except ClientGone:
            pass

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        said: list[Piece] = []
        finished = Finished(None, None)
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    finished = piece
                else:
                    said.append(piece)
        content = "".join(piece.text for piece in said if piece.kind == "content")
        reasoning = "".join(piece.text for piece in said if piece.kind == "reasoning")
        calls: list[JsonObject] = []
        for piece in said:
            if piece.kind == "call":
                calls.append(_call(piece))
            elif piece.kind == "arguments":
                calls[piece.index]["function"]["arguments"] += piece.text
        message: JsonObject = {"role": "assistant", "content": content if content or not calls else None}
        message |= {"refusal": None}
        message |= {"reasoning_content": reasoning} if reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        choice = chat_choice(0, message, "tool_calls" if calls else "stop")
        usage = {"usage": usage} if (usage := _usage(finished)) else {}
        await JSONResponse(chat_completion(self._head, [choice], **usage))(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        started = False
        called = False
        finished = Finished(None, None)

        async def put(*events: bytes, more: bool = True) -> None:
            nonlocal started
            if not started:
                started = True
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                events = (self._event(role="assistant", content="", refusal=None), *events)
            await send({"type": "http.response.body", "body": b"".join(events), "more_body": more})

        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Finished):
                        finished = piece
                    else:
                        called = called or piece.kind == "call"
                        await put(self._event(**_delta(piece)))
        except (ModelFailed, NoKey) as exc:
            if not started:
                raise
            await put(event(failure_object(exc)))
            # An error in the stream may go unread; a connection that breaks does not.
            raise ResponseCut(str(exc)) from exc
        events = [event(chat_completion_chunk(self._head, [chat_delta(0, "tool_calls" if called else "stop")]))]
        if self._call.usage_in_stream and (usage := _usage(finished)):
            events.append(event(chat_completion_chunk(self._head, [], usage=usage)))
        await put(*events, DONE, more=False)

    def _event(self, **delta: Any) -> bytes:
        return event(chat_completion_chunk(self._head, [chat_delta(0, **delta)]))


def _call(piece: Piece) -> JsonObject:
    return {"id": piece.id, "type": "function", "function": {"name": piece.text, "arguments": ""}}


def _delta(piece: Piece) -> JsonObject:
    match piece.kind:
        case "content":
            return {"content": piece.text}
        case "reasoning":
            return {"reasoning_content": piece.text}
        case "call":
            return {"tool_calls": [{"index": piece.index, **_call(piece)}]}
        case "arguments":
            return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}


def _usage(finished: Finished) -> JsonObject | None:
    """Only what the model reported: where it says nothing, neither do we."""
    if finished.input_tokens is None and finished.output_tokens is None:
        return None
    input, output = finished.input_tokens or 0, finished.output_tokens or 0
    return {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}


def failure_object(error: Exception) -> JsonObject:
    """What `NoKey` and `ModelFailed` are to the client."""
    if isinstance(error, NoKey):
        return error_object(401, str(error))
    return error_object(502, str(error), code="model_failed")
