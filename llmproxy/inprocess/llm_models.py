"""The models of the `llm` that is installed beside us, with whatever plug-ins it has, as an OpenAI-compatible API.

    upstreams:
      llm:
        app: llmproxy.inprocess.llm_models:create_app

The conversation is given to the model as messages, so that earlier turns cost no tokens and call no tools; the last one
is prompted. Tools are offered and never run: their calls go back to the client. The key is the one that `llm keys` has
for the model, or with `options: {keys: client}` the one that the client sent. Nothing is written by `llm` itself, since
the proxy records the exchange.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import llm
from llm.models import AsyncModel, Model, ModelWithAliases
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmproxy.inprocess.llm_models_answer import ModelFailed, NoKey, answer
from llmproxy.inprocess.llm_models_completion import Completion, failure_object
from llmproxy.inprocess.llm_models_request import read_call
from llmproxy.inprocess.openai_objects import error_object, model_list, model_object
from llmproxy.inprocess.openai_request import BadRequest, decode


class Options(BaseModel):
    """What the app is told.

    - `models`: the models and aliases that are offered; null for all that `llm models` lists.
    - `keys`: whose key is used: what `llm keys` has, or what the client sends, and no other.
    - `threads`: how many requests a model without an async form answers at the same time; others wait. Local models
      are seldom made for more than one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] | None = None
    keys: Literal["llm", "client"] = "llm"
    threads: int = Field(default=1, ge=1, le=64)


class UnknownModel(BadRequest):
    """The request names a model that `llm` does not have, or that is not offered."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model '{name}' does not exist; `llm models` lists those that do", "model", "model_not_found"
        )


def create_app(options: Mapping[str, Any] | None = None) -> ASGIApp:
    """The models as an ASGI app. `options` are those of `Options`; others raise `ValueError`."""
    return _Models(Options.model_validate(dict(options or {}))).app


class _Models:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._models: dict[str, ModelWithAliases] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._list, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            ],
            exception_handlers={
                BadRequest: _bad_request,
                NoKey: _failed,
                ModelFailed: _failed,
                HTTPException: _no_such_path,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        for known in llm.get_models_with_aliases():
            for name in (known.model or known.async_model).model_id, *known.aliases:
                if self._options.models is None or name in self._options.models:
                    self._models.setdefault(name, known)
        missing = set(self._options.models or ()) - set(self._models)
        if missing:
            raise RuntimeError(f"llm has no model {', '.join(sorted(missing))}; `llm models` lists those that it has")
        yield

    async def _list(self, request: Request) -> Response:
        return JSONResponse(model_list(list(self._models)))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._find(name)
        return JSONResponse(model_object(name))

    async def _chat(self, request: Request) -> Response:
        body = decode(await request.body())
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise BadRequest("Missing required parameter: 'model'.", "model", "missing_required_parameter")
        found = self._find(name)
        model = found.async_model or found.model
        call = read_call(body, model)
        key = _client_key(request, model) if self._options.keys == "client" else None
        gate = self._gates.setdefault(found.model.model_id, asyncio.Semaphore(self._options.threads))
        return Completion(call, name, lambda: answer(found, call, key, gate))

    def _find(self, name: str) -> ModelWithAliases:
        found = self._models.get(name)
        if found is None:
            raise UnknownModel(name)
        return found


def _client_key(request: Request, model: Model | AsyncModel) -> str | None:
    """The key that the client sent, where the model needs one. Raises `NoKey` where it sent none, and for the name of a
    stored key: `llm`, and any plug-in that asks it, would take the operator's key for either (`llm.get_key`)."""
    if model.needs_key is None:
        return None
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    key = sent.strip()
    if scheme.lower() != "bearer" or not key:
        raise NoKey("You didn't provide an API key.")
    if key in llm.load_keys():
        raise NoKey("Incorrect API key provided.")
    return key


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    status = 404 if isinstance(error, UnknownModel) else 400
    return JSONResponse(error_object(status, str(error), error.param, error.code), status)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(failure_object(error), 401 if isinstance(error, NoKey) else 502)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"Invalid URL ({request.method} {request.url.path})"
    return JSONResponse(error_object(error.status_code, message), error.status_code, error.headers)
