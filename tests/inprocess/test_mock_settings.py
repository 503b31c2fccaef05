"""What the mock is told, and what of it is refused."""

from typing import Any

import pytest

from llmproxy.inprocess.mock_settings import MockModel, Options, Script, script_of
from llmproxy.inprocess.openai_request import BadRequest


def test_header_fields_win_over_the_body_and_the_body_over_the_message() -> None:
    headers = [(b"x-mock-answer", b"header"), (b"x-other", b"x")]
    body = {"mock": {"answer": "body", "reasoning": "body"}}
    script = script_of(headers, body, '/mock {"answer": "message", "reasoning": "message", "status": 400}')
    assert (script.answer, script.reasoning, script.status) == ("header", "body", 400)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (b"answer", b"42", "42"),
        (b"answer", b"two words", "two words"),
        (b"answer", rb'"line\nbreak"', "line\nbreak"),
        (b"answer", b'{"a": 1}', '{"a": 1}'),
        (b"answer", "grün".encode(), "grün"),
        (b"chunk-delay", b"0.5", 0.5),
        (b"chunks", b'["a", "b"]', ("a", "b")),
        (b"garbage", b"true", True),
        (b"echo-headers", b"1", True),
    ],
)
def test_values_of_header_fields(name: bytes, value: bytes, told: Any) -> None:
    script = script_of([(b"x-mock-" + name, value)], {})
    assert getattr(script, name.decode().replace("-", "_")) == told


@pytest.mark.parametrize(
    ("script", "param"),
    [
        ({"anwser": "x"}, "mock.anwser"),
        ({"answer": 1}, "mock.answer"),
        ({"chunks": ["a", 1]}, "mock.chunks[1]"),
        ({"chunk_delay": -1}, "mock.chunk_delay"),
        ({"first_delay": float("inf")}, "mock.first_delay"),
        ({"status": 200}, "mock.status"),
        ({"cut_after": -1}, "mock.cut_after"),
        ({"tool_calls": [{"arguments": {}}]}, "mock.tool_calls[0].name"),
        ({"tool_calls": [{"name": "a", "Args": {}}]}, "mock.tool_calls[0].Args"),
        ({"answer": "x", "chunks": []}, "mock"),
        ({"error": "x"}, "mock"),
        ({"retry_after": 1}, "mock"),
        ("answer", "mock"),
        ([], "mock"),
    ],
)
def test_wrong_settings_name_their_key(script: Any, param: str) -> None:
    with pytest.raises(BadRequest) as raised:
        script_of([], {"mock": script})
    assert raised.value.param == param and f"'{param}'" in str(raised.value)


def test_a_setting_that_is_not_known_is_told_which_there_are() -> None:
    with pytest.raises(BadRequest, match="There is: answer, chunks, "):
        script_of([(b"x-mock-delay", b"1")], {})


def test_no_settings() -> None:
    assert script_of([], {"mock": None}, "Hi") == Script()


def test_a_model_that_is_not_listed_is_a_plain_one() -> None:
    options = Options()
    assert options.model("gpt-anything") == MockModel(name="gpt-anything")
    assert options.model(None) == options.model("") == options.models[0]
