"""What a call costs: from the configuration, from the provider itself, or from the list of genai-prices. Offline."""

from dataclasses import replace
from urllib.parse import urlsplit

from llmproxy.bench.results import Prompt, Result, Run, Target
from llmproxy.config import Config, PriceConfig
from llmproxy.loopback import is_loopback


class Prices:
    """The prices of a configuration's upstreams."""

    def __init__(self, config: Config) -> None:
        self._overrides = config.prices
        self._base_urls = {name: upstream.base_url for name, upstream in config.upstreams.items()}

    def cost(
        self,
        upstream: str | None,
        model: str,
        *,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        cache_written_tokens: int | None = None,
        reported: float | None = None,
    ) -> float | None:
        """Dollars for a call, or None where the price or the tokens are not known.

        The configuration's price wins, then what the provider `reported`, then the list of genai-prices.
        """
        price = self._overrides.get(f"{upstream}/{model}") or self._overrides.get(model)
        if price is not None:
            return _by_price(price, input_tokens, output_tokens, cached_tokens)
        if reported is not None:
            return reported
        base_url = self._base_urls.get(upstream or "")
        if upstream in self._base_urls and (base_url is None or is_loopback(urlsplit(base_url).hostname or "")):
            return None  # a model of one's own may have a famous name
        for provider in (base_url, upstream):
            cost = cost_usd(
                model, provider, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cache_written_tokens
            )
            if provider is not None and cost is not None:
                return cost
        return None

    def of_result(self, result: Result, target: Target, prompt: Prompt) -> float | None:
        """What a result cost."""
        upstream, model = (prompt.upstream, prompt.model) if target.as_recorded else (target.upstream, target.model)
        return self.cost(
            upstream,
            model,
            input_tokens=result.input_tokens,
            output_tokens=result.output_tokens,
            cached_tokens=result.cached_tokens,
            reasoning_tokens=result.reasoning_tokens,
            cache_written_tokens=result.cache_written_tokens,
            reported=result.reported_cost_usd,
        )

    def priced(self, run: Run) -> Run:
        """The run with the costs of its results, as far as they are known."""
        targets = {target.name: target for target in run.targets}
        prompts = {prompt.turn_id: prompt for prompt in run.prompts}
        return replace(
            run,
            results=tuple(
                replace(result, cost_usd=self.of_result(result, targets[result.target], prompts[result.prompt]))
                for result in run.results
            ),
        )


def cost_usd(
    model: str,
    provider: str | None,
    input_tokens: int | None,
    output_tokens: int | None,
    cached_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    cache_written_tokens: int | None = None,
) -> float | None:
    """Dollars by the list of genai-prices, or None where it knows no price.

    - `provider`: the API's URL, or genai-prices' name of the provider; None looks the model up everywhere.
    - `input_tokens` hold the cached and the cache-written ones, `output_tokens` the reasoning (which costs the same).
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    if input_tokens is None or output_tokens is None:
        return None
    usage = Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=min(cached_tokens or 0, input_tokens),
        cache_write_tokens=cache_written_tokens or 0,
    )
    try:
        if provider is not None and "://" in provider:
            return float(calc_price(usage, model, provider_api_url=provider).total_price)
        return float(calc_price(usage, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


def _by_price(
    price: PriceConfig, input_tokens: int | None, output_tokens: int | None, cached_tokens: int | None
) -> float | None:
    if input_tokens is None or output_tokens is None:
        return None
    cached = min(cached_tokens or 0, input_tokens)
    cached_price = price.input if price.cached is None else price.cached
    return ((input_tokens - cached) * price.input + cached * cached_price + output_tokens * price.output) / 1_000_000
