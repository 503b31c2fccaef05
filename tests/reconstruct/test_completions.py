from typing import Any

import pytest
from llm.parts import Message, TextPart

from llmproxy.reconstruct.completions import Machine, read_request
from llmproxy.reconstruct.turn import Output, Usage


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("a", (Message("user", [TextPart("a")]),)),
        (["a", ""], (Message("user", [TextPart("a")]), Message("user"))),
        ([1, 2], (Message("user", [TextPart("", {"openai": {"tokens": [1, 2]}})]),)),
        (
            [[1], [2]],
            tuple(Message("user", [TextPart("", {"openai": {"tokens": [token]}})]) for token in (1, 2)),
        ),
        (None, ()),
        ([], ()),
    ],
)
def test_prompts(prompt: Any, messages: tuple[Message, ...]) -> None:
    reading = read_request({"model": "m", "prompt": prompt, "suffix": "s", "stream": True, "echo": None})
    assert (reading.model, reading.input, reading.options) == ("m", messages, {"suffix": "s"})
    assert reading.notes == ()


def test_an_odd_prompt_is_noted() -> None:
    assert read_request({"prompt": [7.5]}).notes == ("prompt is neither text nor tokens",)


def test_a_stream() -> None:
    machine = Machine()
    assert machine.event("", {"id": "1", "model": "m", "choices": [{"index": 1, "text": "a"}]})
    assert machine.event("", {"choices": [{"text": "b", "logprobs": {"tokens": ["b"]}}]})
    machine.event("", {"choices": [{"text": "c", "finish_reason": "stop", "logprobs": {"tokens": ["c"]}}]})
    machine.event("", {"choices": [{"index": 1, "text": "d", "finish_reason": "length"}]})
    machine.event("", {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    machine.done()
    reading = machine.finish()
    assert reading.outputs == (
        Output(0, (Message("assistant", [TextPart("bc")]),), "stop"),
        Output(1, (Message("assistant", [TextPart("ad")]),), "length"),
    )
    assert (reading.usage, reading.finished) == (Usage(1, 2), True)
    assert reading.response_json == {
        "object": "text_completion",
        "id": "1",
        "model": "m",
        "choices": [
            {"index": 0, "text": "bc", "logprobs": {"tokens": ["b", "c"]}, "finish_reason": "stop"},
            {"index": 1, "text": "ad", "finish_reason": "length"},
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }


def test_a_stream_of_values() -> None:
    machine = Machine()
    for text in "ab":
        machine.event("", {"value": text})
    reading = machine.finish()
    assert reading.outputs == (Output(0, (Message("assistant", [TextPart("ab")]),), None),)
    assert (reading.finished, reading.notes) == (False, ())


def test_a_whole_body() -> None:
    machine = Machine()
    machine.whole({"choices": [{"text": "a", "index": 0, "finish_reason": "stop"}, {"text": "", "index": 1}]})
    assert machine.finish().outputs == (
        Output(0, (Message("assistant", [TextPart("a")]),), "stop"),
        Output(1, (), None),
    )


def test_the_messages_of_chat_completions() -> None:
    """Mistral's `/fim/completions` and `/agents/completions`."""
    answer = Output(0, (Message("assistant", [TextPart("ab")]),), "stop")
    machine = Machine()
    machine.whole({"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    assert machine.finish().outputs == (answer,)
    machine = Machine()
    assert machine.event("", {"choices": [{"delta": {"role": "assistant", "content": "a"}}]})
    machine.event("", {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]})
    assert machine.finish().outputs == (answer,)
    asked = read_request({"agent_id": "ag", "messages": [{"role": "user", "content": "q"}]})
    assert (asked.input, asked.options) == ((Message("user", [TextPart("q")]),), {"agent_id": "ag"})
