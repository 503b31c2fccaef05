"""The mock provider: an OpenAI-compatible server without a model, for developing and testing without a key.

What it answers is in `mock_answer.py`; this is the wire. Any key will do, or none.
"""

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llmproxy.inprocess import mock_answer
from llmproxy.inprocess.mock_answer import BadRequest, Script
from llmproxy.transports.asgi import ASGIApp, Receive, Send

Scope = MutableMapping[str, Any]

logger = logging.getLogger("llmproxy.mock")


class Options(BaseModel):
    """`options` of the upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunk_delay: float = Field(default=0.0, ge=0)  # seconds before each chunk of a stream
    models: tuple[str, ...] = ("mock", "mock-large")


class _Disconnected(Exception):
    """The client has gone."""


class _Cut(Exception):
    """The request asked for a broken connection; raised to the server, which drops it."""


def create_app(options: Mapping[str, Any] | None = None) -> ASGIApp:
    """The mock as an ASGI app. Raises pydantic's `ValidationError`, a `ValueError`, for options it does not know."""
    mock = Mock(Options.model_validate(dict(options or {})))
    return mock.__call__


class Mock:
    """Serves `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings` and `/v1/models`, also without `/v1`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for answer in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{answer}.complete"})
            return
        started = time.monotonic()
        path = scope["path"].removeprefix("/v1").rstrip("/")
        exchange = _Exchange(receive, send, scope["method"])
        try:
            await self._route(path, scope, exchange)
        except BadRequest as exc:
            await exchange.error(400, str(exc), param=exc.param)
        except _Disconnected:
            logger.info("%s %s: the client has gone", scope["method"], scope["path"])
            return
        logger.info(
            "%s %s %d in %d ms", scope["method"], scope["path"], exchange.status, (time.monotonic() - started) * 1000
        )

    async def _route(self, path: str, scope: Scope, exchange: "_Exchange") -> None:
        posts = {"/chat/completions": self._chat, "/completions": self._completion, "/embeddings": self._embeddings}
        if path in posts:
            if scope["method"] != "POST":
                await exchange.error(405, f"{scope['method']} is not allowed here; use POST")
                return
            request = _parse(await exchange.body())
            script = mock_answer.script_of(request, scope["headers"])
            await exchange.pause(script.first_delay)
            if script.status is not None:
                await exchange.error(
                    script.status, script.error or "as the request asked", retry_after=script.retry_after
                )
            elif script.garbage:
                await exchange.whole(200, b"<html>This is no JSON.", b"application/json")
            elif script.echo_headers:
                fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
                await exchange.json({"headers": fields})
            else:
                await posts[path](request, script, exchange)
        elif path in ("", "/health") and scope["method"] in ("GET", "HEAD"):
            await exchange.json({"status": "ok"})
        elif path == "/models":
            await exchange.json({"object": "list", "data": [_model(name) for name in self._options.models]})
        elif path.startswith("/models/") and path.removeprefix("/models/") in self._options.models:
            await exchange.json(_model(path.removeprefix("/models/")))
        else:
            await exchange.error(404, f"the mock does not serve {scope['method']} {scope['path']}")

    async def _chat(self, request: Mapping[str, Any], script: Script, exchange: "_Exchange") -> None:
        messages = request.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise BadRequest("messages is a list of objects with role and content", "messages")
        model = request.get("model") or self._options.models[0]
        count = request.get("n") or 1
        if not isinstance(count, int) or not 1 <= count <= 128:
            raise BadRequest("n is a number from 1 to 128", "n")
        choices = [_choice(request, script, messages, index) for index in range(count)]
        prompt = mock_answer.prompt_tokens(messages)
        completion = sum(mock_answer.tokens(choice["text"]) for choice in choices)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        head = {
            "id": f"chatcmpl-mock{next(self._numbers):08d}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_mock",
        }
        if not request.get("stream"):
            objects = [
                {
                    "index": choice["index"],
                    "message": choice["message"],
                    "logprobs": None,
                    "finish_reason": choice["finish_reason"],
                }
                for choice in choices
            ]
            await exchange.json({**head, "object": "chat.completion", "choices": objects, "usage": usage})
            return
        chunks = [chunk for together in itertools.zip_longest(*map(_deltas, choices)) for chunk in together if chunk]
        events: list[dict[str, Any]] = [
            {**head, "object": "chat.completion.chunk", "choices": [chunk]} for chunk in chunks
        ]
        if (request.get("stream_options") or {}).get("include_usage"):
            events.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        await self._stream(events, script, exchange)

    async def _completion(self, request: Mapping[str, Any], script: Script, exchange: "_Exchange") -> None:
        prompts = request.get("prompt", "")
        prompts = prompts if isinstance(prompts, list) else [prompts]
        texts = [script.answer if script.answer is not None else f"You said: {prompt}" for prompt in prompts]
        head = {
            "id": f"cmpl-mock{next(self._numbers):08d}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.get("model") or self._options.models[0],
        }

        def choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

        if request.get("stream"):
            pieces = [choice(at, word, None) for at, text in enumerate(texts) for word in mock_answer.words(text)]
            ends = [choice(at, "", "stop") for at in range(len(texts))]
            await self._stream([{**head, "choices": [piece]} for piece in pieces + ends], script, exchange)
            return
        spent = sum(map(mock_answer.tokens, map(str, prompts))), sum(map(mock_answer.tokens, texts))
        usage = {"prompt_tokens": spent[0], "completion_tokens": spent[1], "total_tokens": sum(spent)}
        choices = [choice(at, text, "stop") for at, text in enumerate(texts)]
        await exchange.json({**head, "choices": choices, "usage": usage})

    async def _embeddings(self, request: Mapping[str, Any], script: Script, exchange: "_Exchange") -> None:
        inputs = request.get("input")
        inputs = inputs if isinstance(inputs, list) else [inputs]
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": [len(str(text)) / 100, (hash_of(str(text)) % 1000) / 1000],
            }
            for at, text in enumerate(inputs)
        ]
        spent = sum(mock_answer.tokens(str(text)) for text in inputs)
        model = request.get("model") or self._options.models[0]
        usage = {"prompt_tokens": spent, "total_tokens": spent}
        await exchange.json({"object": "list", "data": data, "model": model, "usage": usage})

    async def _stream(self, events: list[dict[str, Any]], script: Script, exchange: "_Exchange") -> None:
        delay = self._options.chunk_delay if script.chunk_delay is None else script.chunk_delay
        await exchange.start(200, b"text/event-stream; charset=utf-8")
        for number, event in enumerate(events):
            if number == script.cut_after:
                raise _Cut("the request asked for a broken connection")
            if number == script.error_after:
                error = {"message": script.error or "as the request asked", "type": "server_error", "code": None}
                await exchange.piece(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
                await exchange.end()
                return
            if number:
                await exchange.pause(delay)
            await exchange.piece(b"data: " + json.dumps(event).encode() + b"\n\n")
        await exchange.piece(b"data: [DONE]\n\n")
        await exchange.end()


class _Exchange:
    """The ASGI side of one request: its body, its response, and the client's going away."""

    def __init__(self, receive: Receive, send: Send, method: str) -> None:
        self._receive = receive
        self._send = send
        self._head_only = method == "HEAD"
        self.status = 0

    async def body(self) -> bytes:
        body = b""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            body += bytes(message.get("body", b""))
            if not message.get("more_body", False):
                return body

    async def pause(self, seconds: float) -> None:
        """Wait, unless the client goes."""
        if seconds:
            try:
                async with asyncio.timeout(seconds):
                    while (await self._receive())["type"] != "http.disconnect":
                        pass
                raise _Disconnected
            except TimeoutError:
                return

    async def start(self, status: int, content_type: bytes, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.status = status
        headers = [(b"content-type", content_type), *more]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(
        self, status: int, body: bytes, content_type: bytes, more: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        await self.start(status, content_type, ((b"content-length", b"%d" % len(body)), *more))
        await self._send({"type": "http.response.body", "body": b"" if self._head_only else body, "more_body": False})

    async def json(self, value: Any) -> None:
        await self.whole(200, json.dumps(value).encode(), b"application/json")

    async def error(
        self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
        error = {"message": message, "type": kind, "param": param, "code": None}
        more = ((b"retry-after", b"%d" % retry_after),) if retry_after is not None else ()
        await self.whole(status, json.dumps({"error": error}).encode(), b"application/json", more)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from None
    if not isinstance(request, dict):
        raise BadRequest("the body is a JSON object")
    return request


def _choice(request: Mapping[str, Any], script: Script, messages: list[Any], index: int) -> dict[str, Any]:
    """One choice: its message, its text cut into words, and how it finished."""
    calls = [
        {
            "id": call.id or f"call_mock{index}{at:020d}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
            },
        }
        for at, call in enumerate(script.tool_calls or [])
    ]
    if not calls and script.answer is None and script.chunks is None and (asked := mock_answer.tool_call_for(request)):
        number = mock_answer.prompt_tokens(messages) + len(messages)
        calls = [{"id": f"call_mock{index}{number:020d}", "type": "function", "function": asked}]
    schema = ((request.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if script.chunks is not None:
        answer = "".join(script.chunks)
    elif script.answer is not None:
        answer = script.answer
    elif calls:
        answer = ""
    elif schema is not None:
        answer = json.dumps(mock_answer.example_of(schema))
    else:
        answer = mock_answer.answer_for(messages) + (f" [choice {index}]" if index else "")
    text, finish_reason = mock_answer.cut_to(answer, request)
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if script.reasoning is not None:
        message["reasoning_content"] = script.reasoning
    if calls:
        message["tool_calls"] = calls
        finish_reason = "tool_calls"
    return {
        "index": index,
        "message": message,
        "text": text,
        "chunks": script.chunks if script.chunks is not None else mock_answer.words(text),
        "finish_reason": script.finish_reason or finish_reason,
    }


def _deltas(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice as the chunks of a stream."""
    message = choice["message"]

    def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
        return {"index": choice["index"], "delta": fields, "logprobs": None, "finish_reason": finish_reason}

    yield delta(role="assistant", content="", refusal=None)
    for word in mock_answer.words(message.get("reasoning_content") or ""):
        yield delta(reasoning_content=word)
    for word in choice["chunks"]:
        yield delta(content=word)
    for at, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        head = {
            "index": at,
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        yield delta(tool_calls=[head])
        arguments = function["arguments"]
        for start in range(0, len(arguments), 8):
            yield delta(tool_calls=[{"index": at, "function": {"arguments": arguments[start : start + 8]}}])
    yield delta(choice["finish_reason"])


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmproxy"}


def hash_of(text: str) -> int:
    """A number that is the same for the same text in every process."""
    return sum(position * byte for position, byte in enumerate(text.encode(), 1))
