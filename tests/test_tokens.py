"""Token counts as providers report them, in one meaning."""

from typing import Any

import pytest

from llmproxy.tokens import Tokens, counted


@pytest.mark.parametrize(
    ("input", "output", "details", "tokens"),
    [
        (10, 5, {}, Tokens(10, 5)),
        (None, None, {}, Tokens()),
        (10, 5, {"prompt_tokens_details": {"cached_tokens": 4}}, Tokens(10, 5, cached_tokens=4)),
        (10, 5, {"input_tokens_details": {"cached_tokens": 4}}, Tokens(10, 5, cached_tokens=4)),
        (10, 5, {"prompt_cache_hit_tokens": 4}, Tokens(10, 5, cached_tokens=4)),
        # Anthropic counts what was read from the cache, or written to it, beside the input.
        (
            10,
            5,
            {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            Tokens(16, 5, cached_tokens=4, cache_written_tokens=2),
        ),
        (10, 5, {"completion_tokens_details": {"reasoning_tokens": 3}}, Tokens(10, 5, reasoning_tokens=3)),
        # xAI and Gemini leave the reasoning out of the output.
        (
            10,
            5,
            {"completion_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 18},
            Tokens(10, 8, reasoning_tokens=3),
        ),
        (10, 5, {"cost": 0.5}, Tokens(10, 5, reported_cost_usd=0.5)),
        (10, 5, {"cost": True, "cached_tokens": "4", "prompt_tokens_details": None}, Tokens(10, 5)),
    ],
)
def test_one_meaning_for_all(input: int | None, output: int | None, details: dict[str, Any], tokens: Tokens) -> None:
    assert counted(input, output, details) == tokens
