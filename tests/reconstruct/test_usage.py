from typing import Any

import pytest
from llm.utils import simplify_usage_dict

from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.turn import Usage
from llmproxy.reconstruct.usage import read_usage


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (None, Usage()),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, Usage(1, 2)),
        ({"input_tokens": 1, "output_tokens": 0}, Usage(1, 0)),
        ({"prompt_tokens": 5}, Usage(5, None)),
        # xAI: reasoning is counted beside the output, and only the total tells.
        (
            {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 10,
                "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": 0},
            },
            Usage(1, 2, {"total_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 7}}),
        ),
        (
            {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 9, "service_tier": "standard"},
            Usage(1, 2, {"cache_read_input_tokens": 9, "service_tier": "standard"}),
        ),
    ],
)
def test_usage(reported: Any, usage: Usage) -> None:
    notes = Notes()
    assert read_usage(reported, notes) == usage
    assert not list(notes)


def test_what_sqlite_cannot_hold_is_noted() -> None:
    notes = Notes()
    assert read_usage({"prompt_tokens": 2**64, "completion_tokens": "many"}, notes) == Usage()
    assert list(notes) == [
        "usage.prompt_tokens is not an integer of 64 bits",
        "usage.completion_tokens is not an integer of 64 bits",
    ]


def test_details_are_simplified_as_llm_does_it() -> None:
    details = {"a": 0, "b": None, "c": {}, "d": {"e": 0, "f": {"g": None}}, "h": [0], "i": {"j": 2, "k": 0}, "l": "x"}
    assert read_usage(details, Notes()).details == simplify_usage_dict(details)


def test_timings_stand_beside() -> None:
    assert read_usage({}, Notes(), {"timings": {"n": 1, "m": 0}}).details == {"timings": {"n": 1}}
