"""Token counts in one meaning for all providers, out of what each of them reports in its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one call, None where nothing is known.

    - `input_tokens` hold the cached ones, `output_tokens` the reasoning.
    - `cache_written_tokens`: those of the input that were written into the provider's cache.
    - `reported_cost_usd`: what the provider itself says that it cost.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cache_written_tokens: int | None = None
    reported_cost_usd: float | None = None


def counted(input_tokens: int | None, output_tokens: int | None, details: Mapping[str, Any]) -> Tokens:
    """The tokens of a usage object, taken apart as `reconstruct.turn.Usage` has it: the counts and the `details`."""
    read, written = details.get("cache_read_input_tokens"), details.get("cache_creation_input_tokens")
    if input_tokens is not None and (_whole(read) or _whole(written)):
        input_tokens += (_whole(read) or 0) + (_whole(written) or 0)  # Anthropic counts them apart
    cached = _whole(read) or _nested(details, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens")
    cached = cached or _whole(details.get("prompt_cache_hit_tokens")) or _whole(details.get("cached_tokens"))
    reasoning = _nested(details, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens")
    if input_tokens is not None and output_tokens is not None and reasoning:
        # xAI and Gemini's compatible API leave the reasoning out, and only the total tells.
        if _whole(details.get("total_tokens")) == input_tokens + output_tokens + reasoning:
            output_tokens += reasoning
    cost = details.get("cost")
    return Tokens(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning,
        cached_tokens=cached,
        cache_written_tokens=_whole(written),
        reported_cost_usd=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )


def _nested(details: Mapping[str, Any], places: Sequence[str], name: str) -> int | None:
    for place in places:
        inside = details.get(place)
        if isinstance(inside, Mapping) and _whole(inside.get(name)) is not None:
            return _whole(inside[name])
    return None


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None
