"""A search-and-answer service with an event stream of its own, made to look like a chat model.

    upstreams:
      search:
        app: llmproxy.inprocess.foreign_sse:create_app
        options: {url: "http://127.0.0.1:8000/stream?topNDocuments=3"}

It is asked with `GET`, with the last user message as `search_query`; what else a chat completion request holds, such as
earlier messages and sampling options, has no meaning there and is ignored. Its words become chunks as they come, its
citations one block of bullets at the end. There is no `usage`: the service tells none, and we invent none. Where lines
could not be understood, the last chunk, or the whole answer, says so: `"llmproxy": {"skipped_lines": 2}`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmproxy.inprocess.completion_response import CompletionResponse
from llmproxy.inprocess.foreign_service import Service, ServiceError, service_request
from llmproxy.inprocess.foreign_settings import Options
from llmproxy.inprocess.openai_objects import (
    JsonObject,
    chat_choice,
    chat_completion,
    chat_completion_chunk,
    chat_delta,
    error_object,
    event,
    model_list,
    model_object,
)
from llmproxy.inprocess.openai_request import BadRequest, ChatRequest, decode, parse

CONNECT_SECONDS = 10.0


class UnknownModel(BadRequest):
    """The request names a model that this adapter is not."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The model '{name}' does not exist", "model", "model_not_found")


def create_app(options: Mapping[str, Any] | None = None) -> ASGIApp:
    """The adapter as an ASGI app. `options` are those of `foreign_settings.Options`; others raise `ValueError`."""
    return _Adapter(Options.model_validate(dict(options or {}))).app


class _Adapter:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._client: httpx2.AsyncClient | None = None
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            ],
            exception_handlers={BadRequest: _bad_request, ServiceError: _bad_gateway, HTTPException: _no_such_path},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        timeout = httpx2.Timeout(self._options.timeout, connect=min(self._options.timeout, CONNECT_SECONDS), pool=None)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        tls = httpx2.create_ssl_context() if self._options.url.startswith("https:") else False
        # No proxy and no .netrc of the environment: the service is this machine's or this network's.
        async with httpx2.AsyncClient(timeout=timeout, limits=limits, verify=tls, trust_env=False) as self._client:
            yield

    async def _models(self, request: Request) -> Response:
        return JSONResponse(model_list([self._options.model]))

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(model_object(self._options.model))

    async def _chat(self, request: Request) -> Response:
        chat = parse(ChatRequest, decode(await request.body()))
        self._check_model(chat.model)
        if chat.n not in (None, 1):
            raise BadRequest("Invalid value for 'n': the service gives one answer.", "n", "invalid_value")
        assert self._client is not None
        asked = service_request(self._client, self._options, last_question(chat.messages))
        return _Answer(Service(self._client, asked), self._options, stream=bool(chat.stream))

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self._options.model:
            raise UnknownModel(name)


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message, of its text parts where it has parts. Raises `BadRequest`."""
    content = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), None)
    if isinstance(content, list):
        content = "\n".join(part.get("text") or "" for part in content if part.get("type") == "text")
    text = (content or "").strip()
    if not text:
        raise BadRequest("Invalid value for 'messages': there is no user message with text to search for.", "messages")
    return text


class _Answer(CompletionResponse):
    """The chat completion, sent while the service answers."""

    failures = (ServiceError,)

    def __init__(self, service: Service, options: Options, *, stream: bool) -> None:
        super().__init__(options.model, stream=stream)
        self._service = service
        self._options = options
        self._words = 0
        self._citations: dict[str, None] = {}  # in their order, each once

    async def whole(self) -> JsonObject:
        async with aclosing(self._contents()) as contents:
            content = "".join([text async for texts in contents for text in texts])
        message = {"role": "assistant", "content": content, "refusal": None}
        return chat_completion(self._head, [chat_choice(0, message, "stop")], **self._note())

    async def chunks(self) -> AsyncGenerator[list[bytes]]:
        async with aclosing(self._contents()) as contents:
            async for texts in contents:
                yield [self.delta(content=text) for text in texts]

    def last_chunks(self) -> list[bytes]:
        return [event(chat_completion_chunk(self._head, [chat_delta(0, "stop")], **self._note()))]

    def error(self, failure: Exception) -> JsonObject:
        return _service_error(failure)

    async def _contents(self) -> AsyncGenerator[list[str]]:
        """The pieces of the answer's text as they come, and the citations at the end."""
        async with aclosing(self._service.events()) as batches:
            async for batch in batches:
                self._citations |= {" ".join(each.text.split()): None for each in batch if each.kind == "citation"}
                if texts := [self._word(each.text) for each in batch if each.kind == "response"]:
                    yield texts
        if self._citations:
            heading = [f"{self._options.citations_heading}\n"] if self._options.citations_heading else []
            block = "\n".join((*heading, *(f"- {citation}" for citation in self._citations)))
            yield [f"\n\n{block}" if self._words else block]

    def _word(self, text: str) -> str:
        self._words += 1
        return text if self._words == 1 else self._options.separator + text

    def _note(self) -> JsonObject:
        return {"llmproxy": {"skipped_lines": self._service.skipped}} if self._service.skipped else {}


def _service_error(error: Exception) -> JsonObject:
    return error_object(502, str(error), code="service_failed")


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    status = 404 if isinstance(error, UnknownModel) else 400
    return JSONResponse(error_object(status, str(error), error.param, error.code), status)


async def _bad_gateway(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return JSONResponse(_service_error(error), 502)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        message = f"Not allowed to {method} on {path}."
        return JSONResponse(error_object(405, message, code="method_not_supported"), 405, error.headers)
    return JSONResponse(error_object(404, f"Invalid URL ({method} {path})"), error.status_code)
