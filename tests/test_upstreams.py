"""Upstreams: which path goes where, through which proxy, and which apps can be loaded."""

import asyncio
from typing import Any

import httpx2
import pytest

from llmproxy.config import Config, ConfigError, UpstreamConfig
from llmproxy.errors import ProxyError
from llmproxy.transports.asgi import ASGITransport
from llmproxy.transports.http1 import HTTP1Transport
from llmproxy.upstreams import Upstreams, is_loopback, load_app, make_upstream, open_upstreams, outward_proxy


def upstreams() -> Upstreams:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200))
    configured = {
        "openai": UpstreamConfig(base_url="https://api.openai.com/v1"),
        "gateway": UpstreamConfig(base_url="https://gateway.example:8443/api/v2/"),
        "root": UpstreamConfig(base_url="http://root.example"),
        "app": UpstreamConfig(app="m:a"),
    }
    return Upstreams({name: make_upstream(name, each, transport) for name, each in configured.items()}, "openai")


@pytest.mark.parametrize(
    ("path", "name", "there", "host"),
    [
        (b"/v1/chat/completions", "openai", b"/v1/chat/completions", b"api.openai.com"),
        (b"/v1", "openai", b"/v1", b"api.openai.com"),
        (b"/v1/", "openai", b"/v1/", b"api.openai.com"),
        (b"/openai/v1/models", "openai", b"/v1/models", b"api.openai.com"),
        (b"/gateway/v1/models", "gateway", b"/api/v2/models", b"gateway.example:8443"),
        (b"/gateway/health", "gateway", b"/health", b"gateway.example:8443"),
        (b"/gateway/v1beta/x", "gateway", b"/v1beta/x", b"gateway.example:8443"),
        (b"/root/v1/models", "root", b"/models", b"root.example"),
        (b"/root/v1", "root", b"", b"root.example"),
        (b"/root", "root", b"", b"root.example"),
        (b"/app/v1/models", "app", b"/v1/models", b"app"),
        (b"/app/other", "app", b"/other", b"app"),
    ],
)
def test_paths(path: bytes, name: str, there: bytes, host: bytes) -> None:
    upstream, target = upstreams().resolve(path)
    assert (upstream.name, target, upstream.host) == (name, there, host)


@pytest.mark.parametrize(
    "path", [b"/", b"/nope/v1/x", b"/chat/completions", b"*", b"//v1/x", b"/v2/x", b"/OPENAI/v1/x"]
)
def test_paths_that_go_nowhere(path: bytes) -> None:
    with pytest.raises(ProxyError, match="there is: openai, gateway, root, app") as raised:
        upstreams().resolve(path)
    assert raised.value.code == "unknown_upstream"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.0.0.1", True), ("127.1.2.3", True),
        ("::1", True), ("[::1]", True), ("localhost.example", False), ("10.0.0.1", False), ("0.0.0.0", False),
        ("", False), ("2130706433", False),
    ],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a.example/v1", {}, None),
        ("https://a.example/v1", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.example/v1", {"all_proxy": "http://p:2"}, "http://p:2"),
        ("http://a.example/v1", {"https_proxy": "http://p:1"}, None),
        ("https://a.example/v1", {"https_proxy": "http://p:1", "no_proxy": "a.example"}, None),
        ("http://localhost:1/v1", {"http_proxy": "http://p:1"}, None),
        ("http://127.0.0.1:1/v1", {"all_proxy": "http://p:1"}, None),
    ],
)
def test_the_environments_proxies(
    url: str, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert outward_proxy(UpstreamConfig(base_url=url)) == proxy


async def an_app(scope: Any, receive: Any, send: Any) -> None: ...


def a_factory(options: dict[str, Any]) -> Any:
    if "bad" in options:
        raise ValueError("bad is not known")
    return an_app


def a_bare_factory() -> Any:
    return an_app


not_callable = 7


@pytest.mark.parametrize("name", ["an_app", "a_factory", "a_bare_factory"])
def test_apps_and_factories_load(name: str) -> None:
    assert load_app(f"{__name__}:{name}", {}, "up") is an_app


@pytest.mark.parametrize(
    ("import_string", "options", "said"),
    [
        ("no_such_module:x", {}, "upstreams.up.app: no_such_module:x cannot be loaded"),
        (f"{__name__}:nope", {}, "cannot be loaded"),
        (f"{__name__}:not_callable", {}, "is no ASGI app"),
        (f"{__name__}:a_factory", {"bad": 1}, "upstreams.up.options: .* bad is not known"),
        ("llmproxy.inprocess.mock:create_app", {"chunk_dealy": 1}, "upstreams.up.options: "),
    ],
)
def test_apps_that_do_not_load(import_string: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_app(import_string, options, "up")


def test_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    config = Config(
        upstreams={
            "local": UpstreamConfig(base_url="http://127.0.0.1:1/v1"),
            "far": UpstreamConfig(base_url="https://a.example/v1"),
            "mock": UpstreamConfig(app="llmproxy.inprocess.mock:create_app"),
        }
    )

    async def run() -> dict[str, type]:
        async with open_upstreams(config) as opened:
            return {name.decode(): type(each.transport) for name, each in opened.by_name.items()}

    assert asyncio.run(run()) == {"local": HTTP1Transport, "far": httpx2.AsyncHTTPTransport, "mock": ASGITransport}
