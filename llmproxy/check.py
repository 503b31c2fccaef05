"""`llmproxy check`: what is wrong with a configuration, and how to mend it."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2

from llmproxy.config import Config, ConfigError
from llmproxy.hooks import load_hooks
from llmproxy.preflight import check_host, check_recordable
from llmproxy.upstreams import Upstream, open_upstreams

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: where, whether it is good, and what to say of it."""

    place: str
    good: bool
    text: str


def check(config: Config) -> Iterator[Finding]:
    """Look at everything that can be looked at without serving; nothing is recorded and no model is called."""
    yield from _settings(config)
    try:
        yield from asyncio.run(_upstreams(config))
    except ConfigError as exc:
        yield Finding("upstreams", False, str(exc))


def _settings(config: Config) -> Iterator[Finding]:
    try:
        check_host(config)
        yield Finding("host", True, f"{config.host}:{config.port}")
    except ConfigError as exc:
        yield Finding("host", False, str(exc))
    capture = config.capture
    if not capture.active:
        why = "`llm logs off` was said; run `llm logs on`" if capture.switched_off_by_llm else "capture.enabled: false"
        yield Finding("capture", True, f"nothing is recorded: {why}")
        return
    try:
        check_recordable(capture)
        if capture.database_path.exists() and not os.access(capture.database_path, os.W_OK):
            # `serve` starts all the same: it may be made writable, and until then the spool keeps what comes.
            raise ConfigError(f"capture.database: {capture.database_path} is read-only; make it writable")
        yield Finding("capture", True, f"records into {capture.database_path}, through {capture.spool_path}")
        load_hooks(capture.hooks)
    except ConfigError as exc:
        yield Finding("capture", False, str(exc))


async def _upstreams(config: Config) -> list[Finding]:
    async with open_upstreams(config) as upstreams:
        return list(await asyncio.gather(*(_reach(upstream) for upstream in upstreams.by_name.values())))


async def _reach(upstream: Upstream) -> Finding:
    place = f"upstreams.{upstream.name}"
    target = upstream.base_path + b"/models"
    request = httpx2.Request(
        "GET",
        upstream.url,
        headers=[(b"host", upstream.host), (b"accept", b"application/json"), *upstream.defaults],
        stream=httpx2.ByteStream(b""),
        extensions={"timeout": {**(upstream.timeout or {}), "read": PATIENCE_SECONDS}, "target": target},
    )
    try:
        response = await upstream.transport.handle_async_request(request)
        await response.aread()
        await response.aclose()
    except httpx2.TransportError as exc:
        what = str(exc) or type(exc).__name__
        return Finding(
            place, False, f"{upstream.host.decode()} cannot be reached: {what}; look at base_url, the network"
        )
    status = response.status_code
    where = f"{upstream.host.decode()}{target.decode()}"
    has_key = b"authorization" in upstream.replaced or b"x-api-key" in upstream.replaced
    if status in (401, 403):
        if has_key:
            return Finding(place, False, f"{where} refuses the key of default_headers ({status}); look at the key")
        return Finding(place, True, f"{where} answers and asks for a key: the client's own passes through")
    if status == 404:
        return Finding(
            place, True, f"{where} is not there (404), which some providers do; look at base_url if calls fail"
        )
    if status >= 500:
        return Finding(place, False, f"{where} answers with {status}; the provider has trouble")
    return Finding(place, True, f"{where} answers with {status}")
