"""Upstreams: which path goes where, through which proxy, and which apps can be loaded."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config import Config, ConfigError, UpstreamConfig
from llmproxy.errors import ProxyError
from llmproxy.loopback import is_loopback
from llmproxy.transports.asgi import ASGITransport
from llmproxy.transports.http1 import HTTP1Transport
from llmproxy.upstreams import Upstreams, load_app, make_upstream, open_upstreams, outward_proxy


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
        (b"/root/v1", "root", b"/", b"root.example"),
        (b"/root", "root", b"/", b"root.example"),
        (b"/gateway", "gateway", b"/", b"gateway.example:8443"),
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
        ("http://[::1]:1/v1", {"all_proxy": "http://p:1"}, None),
        ("https://b.a.example/v1", {"https_proxy": "http://p:1", "no_proxy": "x.example,.a.example"}, None),
        ("https://a.example/v1", {"https_proxy": "http://p:1", "no_proxy": "*"}, None),
        ("https://a.example:8443/v1", {"https_proxy": "http://p:1", "no_proxy": "a.example:8443"}, None),
        ("https://a.example:8444/v1", {"https_proxy": "http://p:1", "no_proxy": "a.example:8443"}, "http://p:1"),
        ("https://a.example/v1", {"https_proxy": "p.example:3128"}, "http://p.example:3128"),
        ("https://a.example/v1", {"https_proxy": ""}, None),
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


def a_factory_that_fails() -> Any:
    raise FileNotFoundError("no weights")


def a_factory_of_nothing() -> None: ...


class AnApp:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


an_instance = AnApp()
not_callable = 7


@pytest.mark.parametrize("name", ["an_app", "a_factory", "a_bare_factory"])
def test_apps_and_factories_load(name: str) -> None:
    assert load_app(f"{__name__}:{name}", {}, "up") is an_app


def test_apps_that_are_objects_load() -> None:
    assert load_app(f"{__name__}:an_instance", {}, "up") is an_instance
    assert isinstance(load_app(f"{__name__}:AnApp", {}, "up"), AnApp)
    assert load_app(f"{__name__}:an_instance.__call__", {}, "up") == an_instance.__call__


@pytest.mark.parametrize(
    ("import_string", "options", "said"),
    [
        ("no_such_module:x", {}, "upstreams.up.app: no_such_module:x cannot be loaded"),
        (f"{__name__}:nope", {}, "cannot be loaded"),
        (f"{__name__}:not_callable", {}, "is no ASGI app"),
        (f"{__name__}:", {}, "cannot be loaded"),
        (":app", {}, "cannot be loaded: ValueError"),
        ("builtins:dict", {}, "is no ASGI app and no factory"),
        (f"{__name__}:a_factory_that_fails", {}, "upstreams.up.app: .* failed: FileNotFoundError: no weights"),
        (f"{__name__}:a_factory_of_nothing", {}, "upstreams.up.app: .* made a NoneType"),
        (f"{__name__}:a_factory", {"bad": 1}, "upstreams.up.options: .* bad is not known"),
        ("llmproxy.inprocess.mock:create_app", {"chunk_dealy": 1}, "upstreams.up.options: "),
    ],
)
def test_apps_that_do_not_load(import_string: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_app(import_string, options, "up")


@pytest.mark.parametrize("source", ["this is no Python", "1 / 0", "raise SystemError('no GPU')"])
def test_a_module_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "broken_upstream_app.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^upstreams\.up\.app: broken_upstream_app:app cannot be loaded"):
        load_app("broken_upstream_app:app", {}, "up")


@pytest.mark.parametrize("proxy", ["ftp://me:pw-x@p.example", "http://me:pw-x@p.example:x"])
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    async def run() -> None:
        async with open_upstreams(Config(upstreams={"far": UpstreamConfig(base_url="https://a.example/v1")})):
            raise AssertionError("it cannot be opened")

    with pytest.raises(ConfigError, match="proxy for upstream far") as raised:
        asyncio.run(run())
    assert "pw-x" not in str(raised.value)


async def an_app_that_does_not_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no weights"})


def test_an_app_that_does_not_start_is_named() -> None:
    app = f"{__name__}:an_app_that_does_not_start"

    async def run() -> None:
        async with open_upstreams(Config(upstreams={"up": UpstreamConfig(app=app)})):
            raise AssertionError("it cannot be opened")

    with pytest.raises(ConfigError, match=rf"^upstreams\.up\.app: {app}: the app did not start: no weights"):
        asyncio.run(run())


def test_default_headers() -> None:
    config = UpstreamConfig(base_url="https://a/v1", default_headers={"X-A": "1", "X-Drop": None, "x-b": "2"})
    upstream = make_upstream("up", config, httpx2.MockTransport(lambda request: httpx2.Response(200)))
    assert upstream.defaults == ((b"x-a", b"1"), (b"x-b", b"2"))
    assert upstream.replaced == {b"x-a", b"x-drop", b"x-b"}


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))
def test_any_name_that_the_configuration_takes_can_be_an_apps(name: str) -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200))
    assert make_upstream(name, UpstreamConfig(app="m:a"), transport).base_path == b"/v1"


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
