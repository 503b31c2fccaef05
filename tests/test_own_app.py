"""A user's own ASGI app as an upstream: by import string and options, through a real proxy, captured like any other."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.proxy import InThread, proxy_in_thread

go, gone = threading.Event(), threading.Event()
life: list[str] = []


def create_app(options: Mapping[str, Any]) -> Starlette:
    """What a user would write, with Starlette: a greeting in pieces, by a resource that the lifespan opened."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        life.append("up")
        yield {"greeting": options["greeting"]}
        life.append("down")

    async def greet(request: Request) -> StreamingResponse:
        if request.query_params.get("fail") == "before":
            raise RuntimeError("no greeting today")
        return StreamingResponse(pieces(request, await request.body()), media_type="text/plain")

    async def pieces(request: Request, body: bytes) -> AsyncIterator[bytes]:
        yield request.state.greeting.encode()
        match request.query_params.get("fail"):
            case "after":
                raise RuntimeError("lost the thread")
            case "never ends":
                try:
                    await asyncio.Event().wait()
                finally:
                    gone.set()
        await asyncio.to_thread(go.wait, 20)
        yield body

    return Starlette(routes=[Route("/v1/greet", greet, methods=["POST"])], lifespan=lifespan)


@contextmanager
def greeting(tmp_path: Path) -> Iterator[InThread]:
    app = {"app": f"{__name__}:create_app", "options": {"greeting": "hello "}}
    with proxy_in_thread(tmp_path, upstreams={"own": app}) as proxy:
        yield proxy


def test_it_starts_answers_in_pieces_and_ends(tmp_path: Path) -> None:
    life.clear()
    go.clear()
    with greeting(tmp_path) as proxy:
        assert life == ["up"]
        with httpx2.stream("POST", f"{proxy.url}/own/v1/greet", content=b"world") as response:
            received = response.iter_raw()
            assert next(received) == b"hello "
            go.set()
            assert b"".join(received) == b"world"
        exchange = proxy.exchange()
        assert (exchange.upstream, exchange.path, exchange.outcome) == ("own", "/own/v1/greet", "complete")
        assert b"".join(piece for _, piece in exchange.response_body) == b"hello world"
    assert life == ["up", "down"]


def test_errors_before_and_after_the_first_byte_are_told_apart(tmp_path: Path) -> None:
    with greeting(tmp_path) as proxy:
        # Starlette answers for its app: the error is the app's, and passes.
        before = httpx2.post(f"{proxy.url}/v1/greet?fail=before")
        assert (before.status_code, before.text) == (500, "Internal Server Error")
        assert "x-llmproxy-error" not in before.headers
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.post(f"{proxy.url}/v1/greet?fail=after")
        assert [exchange.outcome for exchange in proxy.exchanges()] == ["complete", "upstream_cut"]


def test_an_app_that_raises_is_a_502_with_its_reason(tmp_path: Path) -> None:
    app = {"app": f"{__name__}:an_app_that_raises"}
    with proxy_in_thread(tmp_path, upstreams={"own": app}) as proxy:
        response = httpx2.get(f"{proxy.url}/v1/x")
        assert (response.status_code, response.headers["x-llmproxy-error"]) == (502, "upstream_protocol")
        assert "the app failed: KeyError: 'weights'" in response.json()["error"]["message"]
        assert proxy.exchange().outcome == "upstream_protocol"


async def an_app_that_raises(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("weights")


def test_it_learns_that_the_client_is_gone(tmp_path: Path) -> None:
    gone.clear()
    with greeting(tmp_path) as proxy, httpx2.Client() as client:
        with client.stream("POST", f"{proxy.url}/v1/greet?fail=never ends") as response:
            assert next(response.iter_raw()) == b"hello "
        assert gone.wait(20)
        assert proxy.exchange().outcome == "client_gone"
