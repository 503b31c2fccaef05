"""The pytest plugin: the fixture `llmproxy_replay`, the flag `--llmproxy-record`, the marker `llmproxy`.

It is loaded in every project that has llmproxy installed, so it imports nothing but pytest until a test asks for it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llmproxy.testing import Replaying

_DEFAULT_CASSETTE = "cassettes/{module}.db"
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_MARKER = (
    "llmproxy(cassette=None, match=(), speed=0, upstreams=None): how the fixture llmproxy_replay answers; cassette is a"
    " path from the test's folder, match are the options that count, upstreams are names and base URLs to record from"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llmproxy")
    group.addoption(
        "--llmproxy-record",
        action="store_true",
        help="Send requests that the cassette does not know to the real provider, and keep the answers.",
    )
    parser.addini(
        "llmproxy_cassette",
        f"Where captured answers lie, from the test's folder; {{module}} and {{test}} are filled in"
        f" (default: {_DEFAULT_CASSETTE}).",
        default=_DEFAULT_CASSETTE,
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def llmproxy_replay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Replaying]":
    """A proxy that answers from the cassette, with OPENAI_BASE_URL, ANTHROPIC_BASE_URL and keys set for this test.

    A request that the cassette does not know is answered with 404 and the difference to the nearest one that it does;
    with `--llmproxy-record` it goes to the provider.
    """
    from llmproxy.testing import NoCassette, replaying

    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("llmproxy"))):  # the nearest to the test comes last
        settings |= marker.kwargs
    named = settings.pop("cassette", None) or request.config.getini("llmproxy_cassette")
    test = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in request.node.name)
    cassette = request.path.parent / Path(str(named).format(module=request.path.stem, test=test))
    record = bool(request.config.getoption("--llmproxy-record"))
    if record:
        settings.setdefault("upstreams", _providers())
    try:
        with replaying(cassette, record=record, **settings) as replay:
            for name, value in replay.environment.items():
                monkeypatch.setenv(name, value)
            for name in _KEYS:
                if not record or name not in os.environ:
                    monkeypatch.setenv(name, "llmproxy-replay")
            for name in ("NO_PROXY", "no_proxy"):
                others = os.environ.get(name)
                monkeypatch.setenv(name, f"{others},127.0.0.1" if others else "127.0.0.1")
            yield replay
    except NoCassette as exc:
        pytest.fail(str(exc), pytrace=False)


def _providers() -> dict[str, str]:
    """Where the environment says that the providers are."""
    from llmproxy.testing import PROVIDERS

    providers = dict(PROVIDERS)
    if openai := os.environ.get("OPENAI_BASE_URL"):
        providers["openai"] = openai
    if anthropic := os.environ.get("ANTHROPIC_BASE_URL"):
        providers["anthropic"] = anthropic.rstrip("/") + "/v1"  # its SDK adds the version itself
    return providers
