"""What a call costs: from the configuration, from the provider itself, or from the list of genai-prices. Offline."""

from urllib.parse import urlsplit

from llmproxy.config import Config, PriceConfig
from llmproxy.loopback import is_loopback
from llmproxy.tokens import Tokens


class Prices:
    """The prices of a configuration's upstreams."""

    def __init__(self, config: Config) -> None:
        self._overrides = config.prices
        self._base_urls = {name: upstream.base_url for name, upstream in config.upstreams.items()}

    def cost(self, upstream: str | None, model: str, tokens: Tokens) -> float | None:
        """Dollars for a call, or None where the price or the tokens are not known.

        The configuration's price wins, then what the provider reported, then the list of genai-prices.
        """
        price = self._overrides.get(f"{upstream}/{model}") or self._overrides.get(model)
        if price is not None:
            return _by_price(price, tokens)
        if tokens.reported_cost_usd is not None:
            return tokens.reported_cost_usd
        base_url = self._base_urls.get(upstream or "")
        if upstream in self._base_urls and (base_url is None or is_loopback(urlsplit(base_url).hostname or "")):
            return None  # a model of one's own may have a famous name
        for provider in (base_url, upstream):
            cost = listed_cost(model, provider, tokens)
            if provider is not None and cost is not None:
                return cost
        return None


def listed_cost(model: str, provider: str | None, tokens: Tokens) -> float | None:
    """Dollars by the list of genai-prices, or None where it knows no price.

    - `provider`: the API's URL, or genai-prices' name of the provider; None looks the model up everywhere.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    if tokens.input_tokens is None or tokens.output_tokens is None:
        return None
    # Reasoning is part of the output and costs the same.
    usage = Usage(
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        cache_read_tokens=min(tokens.cached_tokens or 0, tokens.input_tokens),
        cache_write_tokens=tokens.cache_written_tokens or 0,
    )
    try:
        if provider is not None and "://" in provider:
            return float(calc_price(usage, model, provider_api_url=provider).total_price)
        return float(calc_price(usage, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


def _by_price(price: PriceConfig, tokens: Tokens) -> float | None:
    if tokens.input_tokens is None or tokens.output_tokens is None:
        return None
    cached = min(tokens.cached_tokens or 0, tokens.input_tokens)
    cached_price = price.input if price.cached is None else price.cached
    dollars = (tokens.input_tokens - cached) * price.input + cached * cached_price + tokens.output_tokens * price.output
    return dollars / 1_000_000
