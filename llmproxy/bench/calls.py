"""Calls through the forward path in this process: recorded as any other's, and measured as a client sees them."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from llmproxy.app import create_app
from llmproxy.bench.measure import Answered
from llmproxy.bench.requests import BenchRequest
from llmproxy.capture.exchange import FORK_OF
from llmproxy.config import Config, SecurityConfig
from llmproxy.reconstruct import NotReconstructed, Reconstruction
from llmproxy.transports.asgi import ASGITransport

BENCH_HEADER = b"x-llmproxy-bench"
_PASSING = frozenset((408, 409, 425, 429))
_OURS = ("x-llmproxy-bench", FORK_OF.decode())


@dataclass(frozen=True, slots=True)
class Mark:
    """What an exchange was made for; it is recorded with the exchange, and never sent on.

    `kind`: ``answer``, or ``judge`` with what of its questions it is (``judge0``).
    """

    kind: str
    prompt: str
    target: int
    repeat: int

    def header(self) -> str:
        """As the value of a header field."""
        return f"{self.kind} {self.prompt} {self.target} {self.repeat}"

    @classmethod
    def parse(cls, value: str) -> "Mark | None":
        """The mark of a header's value; None where it is none."""
        words = value.split(" ")
        if len(words) != 4 or not words[2].isdecimal() or not words[3].isdecimal():
            return None
        return cls(words[0], words[1], int(words[2]), int(words[3]))


def client_name(run_id: str) -> str:
    """What `llmproxy_exchanges.client` says of a run's exchanges."""
    return f"bench:{run_id}"


class Caller:
    """Calls upstreams for one run. `open_caller` makes one."""

    def __init__(self, transport: httpx2.AsyncBaseTransport, key: str) -> None:
        self._transport = transport
        self._key = key

    async def call(self, upstream: str, request: BenchRequest, mark: Mark, *, fork_of: str | None) -> Answered:
        """Send one request and read all of its answer. Whatever goes wrong is told in what is returned."""
        reconstruction = Reconstruction(request.api, request_headers=(), request_body=request.body)
        headers = [
            ("host", "127.0.0.1"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("user-agent", "llmproxy-bench"),
            ("content-length", str(len(request.body))),
            ("x-llmproxy-key", self._key),
            (BENCH_HEADER.decode(), mark.header()),
            *(((FORK_OF.decode(), fork_of),) if fork_of is not None else ()),
            *_credentials(upstream, request.api),
            *request.headers,
        ]
        sent = httpx2.Request(
            "POST", f"http://127.0.0.1/{upstream}/v1/{request.path}", headers=headers, content=request.body
        )
        now = datetime.now(UTC).isoformat()
        started = time.perf_counter()
        status: int | None = None
        first_byte: float | None = None
        retry_after = error = None
        try:
            response = await self._transport.handle_async_request(sent)
            status = response.status_code
            retry_after = _retry_after(response.headers)
            reconstruction.response(status, response.headers.raw)
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            try:
                async for piece in response.stream:
                    at = time.perf_counter() - started
                    first_byte = at if first_byte is None else first_byte
                    reconstruction.feed(piece, round(at * 1e6))
            finally:
                await response.aclose()
        except httpx2.TransportError as exc:
            error = str(exc) or type(exc).__name__
        duration = (time.perf_counter() - started) * 1000
        turn = None
        try:
            turn = reconstruction.finish(complete=error is None)
            error = error or turn.error
        except NotReconstructed as exc:
            error = error or str(exc)
        if error is None and status is not None and status >= 400:
            error = f"the answer was {status}"
        if error is None and turn is not None and not turn.finished:
            error = "the answer broke off"
        if error is None and (turn is None or not turn.outputs):
            error = "the answer was empty"
        passing = status in _PASSING or (status is not None and status >= 500)
        first = None if first_byte is None else first_byte * 1000
        return Answered(status, turn, error, now, first, duration, passing, retry_after)

    async def warm_up(self, upstream: str, connections: int) -> None:
        """Open connections before anything is measured, with requests that cost nothing; their answers do not count."""
        headers = [("host", "127.0.0.1"), ("x-llmproxy-key", self._key), (BENCH_HEADER.decode(), "warm-up")]
        headers += _credentials(upstream, "chat.completions")

        async def get() -> None:
            try:
                response = await self._transport.handle_async_request(
                    httpx2.Request("GET", f"http://127.0.0.1/{upstream}/v1/models", headers=headers)
                )
                try:
                    await response.aread()
                finally:
                    await response.aclose()
            except httpx2.TransportError:
                pass  # the first call will tell

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(get())


@asynccontextmanager
async def open_caller(config: Config, run_id: str) -> AsyncIterator[Caller]:
    """A caller over the serving app of a configuration, in this process, that records all that passes.

    The run is a client of its own, so that its exchanges are told from all others; the upstreams see none of it.
    Raises `ConfigError`, as `llmproxy.app` does.
    """
    key = secrets.token_urlsafe(24)
    upstreams = {
        name: upstream.model_copy(update={"default_headers": {**upstream.default_headers, **dict.fromkeys(_OURS)}})
        for name, upstream in config.upstreams.items()
    }
    own = config.model_copy(
        update={
            "host": "127.0.0.1",
            "upstreams": upstreams,
            "security": SecurityConfig(clients={client_name(run_id): key}),
            "capture": config.capture.model_copy(update={"enabled": True}),
        }
    )
    async with ASGITransport(create_app(own)) as transport:
        yield Caller(transport, key)


def _credentials(upstream: str, api: str) -> tuple[tuple[str, str], ...]:
    """The key of the environment, as the provider's own clients take it (`OPENAI_API_KEY`), for an upstream of that
    name. A key of the configuration wins over it: it is one of the upstream's default headers."""
    key = os.environ.get(f"{upstream.upper().replace('-', '_')}_API_KEY")
    if not key:
        return ()
    return (("x-api-key", key),) if api == "messages" else (("authorization", f"Bearer {key}"),)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds to wait, by `retry-after-ms` (OpenAI) or `retry-after` (RFC 9110 section 10.2.3)."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(float(milliseconds) / 1000, 0)
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0)
    except (ValueError, TypeError):
        return None
