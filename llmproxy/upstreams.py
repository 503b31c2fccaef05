"""Upstreams: from the configuration to where each path goes, and over which transport."""

import importlib
import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies_environment, proxy_bypass

import httpx2
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmproxy.config import Config, ConfigError, UpstreamConfig
from llmproxy.errors import ProxyError
from llmproxy.headers import Header
from llmproxy.loopback import is_loopback
from llmproxy.transports.asgi import ASGIApp, ASGITransport
from llmproxy.transports.http1 import HTTP1Transport


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where exchanges are sent.

    - `url`: scheme and authority only; the request target goes beside it, as bytes that no URL parser touched.
    - `host`: the value of `Host`; `base_path`: what `/v1` stands for, without a slash at its end.
    - `defaults`: header fields of the configuration; `replaced`: the names that are not taken from the client.
    - `timeout`: seconds, as httpx2's transports read it.
    """

    name: str
    url: httpx2.URL
    host: bytes
    base_path: bytes
    transport: httpx2.AsyncBaseTransport
    defaults: tuple[Header, ...] = ()
    replaced: frozenset[bytes] = frozenset()
    timeout: Mapping[str, float | None] | None = None


class Upstreams:
    """All upstreams, by name, and the rule that finds one for a path."""

    def __init__(self, upstreams: Mapping[str, Upstream], default: str) -> None:
        self.by_name = {name.encode(): upstream for name, upstream in upstreams.items()}
        self.default = upstreams[default]

    def resolve(self, path: bytes) -> tuple[Upstream, bytes]:
        """The upstream for a raw path, and the raw path there.

        `/v1/REST` goes to the default upstream, `/NAME/v1/REST` to NAME: `/v1` stands for its base URL.
        `/NAME/OTHER` goes to the same host at `/OTHER`. Raises `ProxyError`.
        """
        if path.startswith(b"/v1/") or path == b"/v1":
            return self.default, self.default.base_path + path[3:] or b"/"
        name, slash, rest = path[1:].partition(b"/")
        upstream = self.by_name.get(name)
        if upstream is None:
            names = ", ".join(name.decode() for name in self.by_name)
            raise ProxyError(
                "unknown_upstream",
                f"{path.decode('latin-1')[:200]!r} goes to no upstream: use /v1/… for the default one"
                f" ({self.default.name}) or /NAME/v1/…; there is: {names}",
            )
        if rest == b"v1" or rest.startswith(b"v1/"):
            return upstream, upstream.base_path + rest[2:] or b"/"
        return upstream, slash + rest or b"/"  # RFC 9112 section 3.2.1: an empty path is sent as "/"


@asynccontextmanager
async def open_upstreams(config: Config) -> AsyncIterator[Upstreams]:
    """The upstreams of a configuration with their transports open.

    Raises `ConfigError` for an app that cannot be loaded or does not start.
    """
    async with AsyncExitStack() as stack:
        direct: httpx2.AsyncBaseTransport | None = None
        upstreams = {}
        for name, upstream in config.upstreams.items():
            if upstream.app is not None:
                transport: httpx2.AsyncBaseTransport = ASGITransport(load_app(upstream.app, upstream.options, name))
                try:
                    await stack.enter_async_context(transport)
                except RuntimeError as exc:
                    raise ConfigError(f"upstreams.{name}.app: {upstream.app}: {exc}") from exc
            elif proxy := outward_proxy(upstream):
                transport = await stack.enter_async_context(_proxied_transport(proxy, name))
            else:
                if direct is None:
                    direct = await stack.enter_async_context(HTTP1Transport())
                transport = direct
            upstreams[name] = make_upstream(name, upstream, transport)
        yield Upstreams(upstreams, config.default_upstream_name)


def make_upstream(name: str, config: UpstreamConfig, transport: httpx2.AsyncBaseTransport) -> Upstream:
    """An upstream over a transport that the caller owns."""
    base = httpx2.URL(config.base_url or f"http://{name}/v1")
    return Upstream(
        name=name,
        url=base.copy_with(raw_path=b"/"),
        host=base.netloc,
        base_path=base.raw_path.rstrip(b"/"),
        transport=transport,
        defaults=tuple(
            (key.lower().encode(), value.encode()) for key, value in config.default_headers.items() if value is not None
        ),
        replaced=frozenset(key.lower().encode() for key in config.default_headers),
        timeout={
            "connect": config.connect_timeout,
            "read": config.read_timeout,
            "write": config.read_timeout,
            "pool": None,
        },
    )


def outward_proxy(config: UpstreamConfig) -> str | None:
    """The HTTP or SOCKS proxy that the environment names for this upstream; never one for loopback."""
    if config.base_url is None:
        return None
    url = httpx2.URL(config.base_url)
    if is_loopback(url.host) or proxy_bypass(url.netloc.decode()):
        return None
    proxies = getproxies_environment()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy  # as curl reads HTTP_PROXY=host:port


def load_app(import_string: str, options: Mapping[str, Any], name: str) -> ASGIApp:
    """The ASGI app at `package.module:attribute`, or what the factory there makes of `options`.

    A callable that takes three arguments is the app itself. Raises `ConfigError` naming the upstream.
    """
    place = f"upstreams.{name}.app"
    module_name, _, attribute = import_string.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as exc:  # a module is a program: it raises what it likes
        raise ConfigError(f"{place}: {import_string} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"{place}: {import_string} is no ASGI app and no factory of one") from None
    if len([p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) == 3:
        return found  # type: ignore[no-any-return]
    try:
        app: ASGIApp = found(dict(options)) if parameters else found()
    except ValidationError as exc:
        mistakes = "; ".join(_explained(mistake) for mistake in exc.errors(include_input=False))
        raise ConfigError(f"upstreams.{name}.options: {import_string} refuses them: {mistakes}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"upstreams.{name}.options: {import_string} refuses them: {exc}") from exc
    except Exception as exc:  # as above
        raise ConfigError(f"{place}: {import_string} failed: {type(exc).__name__}: {exc}") from exc
    if not callable(app):
        raise ConfigError(f"{place}: {import_string} made a {type(app).__name__}, which is no ASGI app")
    return app


def _explained(mistake: ErrorDetails) -> str:
    place = ".".join(map(str, mistake["loc"]))
    said = mistake["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


def _proxied_transport(proxy: str, name: str) -> httpx2.AsyncBaseTransport:
    try:
        return httpx2.AsyncHTTPTransport(
            proxy=proxy, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30)
        )
    except (ValueError, ImportError, httpx2.InvalidURL) as exc:
        raise ConfigError(f"the environment's proxy for upstream {name} cannot be used: {exc}") from exc
