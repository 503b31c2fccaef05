"""What calls cost: by the configuration, by the provider's own word, by the list; and what is not known."""

from typing import Any

import pytest

from llmproxy.config import Config, PriceConfig, UpstreamConfig
from llmproxy.prices import Prices, listed_cost
from llmproxy.tokens import Tokens

CONFIG = Config(
    upstreams={
        "openai": UpstreamConfig(base_url="https://api.openai.com/v1"),
        "claude": UpstreamConfig(base_url="https://api.anthropic.com/v1"),
        "local": UpstreamConfig(base_url="http://127.0.0.1:8000/v1"),
        "deepseek": UpstreamConfig(base_url="https://gateway.example.com/v1"),
        "mock": UpstreamConfig(app="llmproxy.inprocess.mock:create_app"),
    },
    prices={
        "mine": PriceConfig(input=1, output=2, cached=0.5),
        "local/mine": PriceConfig(input=10, output=20),
    },
)


@pytest.mark.parametrize(
    ("upstream", "model", "more", "cost"),
    [
        ("openai", "mine", {}, 3.0),
        ("openai", "mine", {"cached_tokens": 500_000}, 2.75),
        ("local", "mine", {"cached_tokens": 500_000}, 30.0),
        ("mock", "mock", {"reported_cost_usd": 0.25}, 0.25),
        ("openai", "mine", {"reported_cost_usd": 0.25}, 3.0),
        ("mock", "mock", {}, None),
        ("local", "gpt-4o-mini", {}, None),
        ("openai", "no-such-model-there-is", {}, None),
        ("openai", "mine", {"output_tokens": None}, None),
    ],
)
def test_costs(upstream: str, model: str, more: dict[str, Any], cost: float | None) -> None:
    tokens: dict[str, Any] = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    assert Prices(CONFIG).cost(upstream, model, Tokens(**(tokens | more))) == cost


@pytest.mark.parametrize(("upstream", "model"), [("openai", "gpt-4o-mini"), ("deepseek", "deepseek-chat")])
def test_the_list_knows_providers_by_url_and_by_name(upstream: str, model: str) -> None:
    cost = Prices(CONFIG).cost(upstream, model, Tokens(1_000_000, 1_000_000))
    assert cost is not None and 0.05 < cost < 50


def test_what_was_cached_costs_less() -> None:
    fresh = listed_cost("gpt-4o-mini", "openai", Tokens(1_000_000, 0))
    cached = listed_cost("gpt-4o-mini", "openai", Tokens(1_000_000, 0, cached_tokens=1_000_000))
    assert fresh is not None and cached is not None and 0 < cached < fresh
    assert listed_cost("gpt-4o-mini", "no-such-provider", Tokens(1, 1)) is None
