"""The proxy that one writes first: Starlette and a shared httpx2 client. A contestant; nothing to be copied.

It records nothing, loses duplicate header fields and ends a stream politely that broke off.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

UPSTREAM = os.environ.get("BENCHMARK_UPSTREAM", "")
NOT_PASSED_ON = ("host", "accept-encoding", "connection", "transfer-encoding")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, httpx2.AsyncClient]]:
    # Without the limits, it would queue from the 101st stream on.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=UPSTREAM, timeout=None, limits=limits, trust_env=False) as client:
        yield {"client": client}


async def proxy(request: Request) -> StreamingResponse:
    client: httpx2.AsyncClient = request.state.client
    headers = {name: value for name, value in request.headers.items() if name not in NOT_PASSED_ON}
    outgoing = client.build_request(request.method, request.url.path, headers=headers, content=await request.body())
    response = await client.send(outgoing, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        headers={name: value for name, value in response.headers.items() if name not in NOT_PASSED_ON},
        background=BackgroundTask(response.aclose),
    )


app = Starlette(routes=[Route("/{path:path}", proxy, methods=["GET", "POST"])], lifespan=lifespan)
