from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm import Tool
from llm.parts import Message, TextPart

from llmproxy.reconstruct.responses import read_request


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, ()),
        ({"input": None, "prompt": {"id": "p"}}, ()),
        ({"input": "hi"}, (Message("user", [TextPart("hi")]),)),
        ({"input": ""}, (Message("user", []),)),
        ({"input": [{"role": "user", "content": "hi"}]}, (Message("user", [TextPart("hi")]),)),
        ({"input": {"role": "user", "content": "hi"}}, (Message("user", [TextPart("hi")]),)),
        (
            {"instructions": "be kind", "input": "hi"},
            (Message("system", [TextPart("be kind")]), Message("user", [TextPart("hi")])),
        ),
        ({"instructions": "", "input": []}, ()),
    ],
)
def test_input(body: dict[str, Any], messages: tuple[Message, ...]) -> None:
    assert read_request(body).input == messages


def test_the_rest_of_the_request() -> None:
    schema = {"type": "object", "properties": {}}
    reading = read_request(
        {
            "model": "m",
            "instructions": "i",
            "input": "hi",
            "stream": True,
            "temperature": 0,
            "user": None,
            "text": {
                "verbosity": "low",
                "format": {"type": "json_schema", "name": "n", "strict": True, "schema": schema},
            },
            "tools": [
                {"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": True},
                {"type": "function", "name": "g", "parameters": None, "strict": None},
                {"type": "web_search", "filters": {"allowed_domains": ["x.test"]}},
                {"type": "custom", "name": "sql", "description": "d", "format": {"type": "text"}},
            ],
            "previous_response_id": "resp_1",
            "conversation": {"id": "conv_1"},
        }
    )
    assert reading.model == "m"
    assert reading.schema == schema
    assert reading.options == {
        "temperature": 0,
        "text": {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "strict": True}},
        "tools": {"f": {"strict": True}},
    }
    assert reading.tools == (
        Tool("f", "d", schema),
        Tool("g", None, {}),
        Tool("web_search", None, {"type": "web_search", "filters": {"allowed_domains": ["x.test"]}}),
        Tool("sql", "d", {"type": "custom", "format": {"type": "text"}}),
    )
    assert reading.previous_response_id == "resp_1"
    assert reading.conversation == "conv_1"
    assert reading.instructions == 1
    assert reading.notes == ()


def test_conversation_by_its_id() -> None:
    assert read_request({"conversation": "conv_1"}).conversation == "conv_1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KNOWN = ("type", "role", "content", "id", "call_id", "name", "arguments", "output", "summary", "tools", "image_url")
TYPES = st.sampled_from(
    "message reasoning function_call function_call_output custom_tool_call web_search_call mcp_call shell_call"
    " code_interpreter_call image_generation_call tool_search_output mcp_list_tools computer_call_output"
    " input_image input_file input_audio refusal input_text".split()
)
ITEM = st.dictionaries(st.sampled_from(KNOWN), TYPES | JSON | st.lists(st.dictionaries(st.sampled_from(KNOWN), TYPES)))


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["model", "input", "instructions", "tools", "text", "conversation", "previous_response_id"]),
        JSON | st.lists(ITEM, max_size=4),
    )
)
def test_any_json_in_any_field(body: dict[str, Any]) -> None:
    read_request(body)


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ([{"role": "assistant", "id": "msg_1"}, {"role": "user", "id": "x"}], "msg_1"),
        ([{"role": "assistant", "id": "msg_1"}, {"type": "function_call", "id": "fc_1"}], "fc_1"),
        ([{"role": "assistant", "id": "msg_1"}, {"type": "function_call"}], None),
        ([{"type": "reasoning", "id": "rs_1"}, "?", {"role": "user"}], None),
        ("hi", None),
    ],
)
def test_the_id_of_the_last_answer_that_is_sent_back(given: Any, echoed: str | None) -> None:
    assert read_request({"input": given}).echoed_item == echoed
