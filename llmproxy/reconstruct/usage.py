"""Token counts, as the provider reported them."""

from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.json_values import Notes, integer, mapping
from llmproxy.reconstruct.turn import Usage

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")


def read_usage(reported: Any, notes: Notes, extra: Mapping[str, Any] | None = None) -> Usage:
    """The usage object of any of the APIs. `extra` is added to the details (llama.cpp's `timings` stand beside it).

    Nothing is computed: whether the output includes reasoning or the input what was cached differs by provider.
    """
    usage = mapping(reported, "usage", notes)
    input_tokens = _count(usage, _INPUT, notes)
    output_tokens = _count(usage, _OUTPUT, notes)
    rest = {key: value for key, value in usage.items() if key not in (*_INPUT, *_OUTPUT)}
    if rest.get("total_tokens") == (input_tokens or 0) + (output_tokens or 0):
        # `llm` never keeps the total. Where reasoning is counted beside the output (xAI, Gemini), it says something.
        del rest["total_tokens"]
    return Usage(input_tokens, output_tokens, _simplified({**rest, **(extra or {})}))


def _count(usage: Mapping[str, Any], names: tuple[str, ...], notes: Notes) -> int | None:
    for name in names:
        if usage.get(name) is not None:
            return integer(usage[name], f"usage.{name}", notes)
    return None


def _simplified(details: Mapping[str, Any]) -> dict[str, Any]:
    """Without zeros, nulls and what is empty, at every depth, as `llm.utils.simplify_usage_dict` does it."""
    kept = {key: _simplified(value) if isinstance(value, dict) else value for key, value in details.items()}
    return {key: value for key, value in kept.items() if value is not None and value != 0 and value != {}}
