from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm import Tool
from llm.parts import Message, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.anthropic_messages import read_request

CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "42"}]}


@pytest.mark.parametrize(
    ("system", "messages"),
    [
        (None, ()),
        ("", ()),
        ("be kind", (Message("system", [TextPart("be kind")]),)),
        ([{"type": "text", "text": "be kind", "cache_control": {}}], (Message("system", [TextPart("be kind")]),)),
    ],
)
def test_system(system: Any, messages: tuple[Message, ...]) -> None:
    assert read_request({"system": system, "messages": []}).input == messages


def test_tool_results_become_a_message_of_their_own() -> None:
    user = {"role": "user", "content": [RESULT, {"type": "text", "text": "and now?"}]}
    assert read_request({"messages": [CALL, user]}).input == (
        Message("assistant", [ToolCallPart("f", {"a": 1}, "t")]),
        Message("tool", [ToolResultPart("f", "42", "t")]),
        Message("user", [TextPart("and now?")]),
    )
    assert [m.role for m in read_request({"messages": [CALL, {"role": "user", "content": [RESULT]}]}).input] == [
        "assistant",
        "tool",
    ]


def test_one_message_for_each_that_was_sent() -> None:
    sent = [{"role": "user", "content": ""}, {"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert read_request({"messages": sent}).input == (
        Message("user", []),
        Message("system", [TextPart("s")]),
        Message("user", [TextPart("q")]),
    )


@pytest.mark.parametrize("wrap", [lambda f: {"output_config": {"format": f}}, lambda f: {"output_format": f}])
def test_schema(wrap: Any) -> None:
    schema = {"type": "object"}
    reading = read_request(wrap({"type": "json_schema", "schema": schema}))
    assert reading.schema == schema
    assert reading.options == wrap({"type": "json_schema"})


def test_the_rest_of_the_request() -> None:
    reading = read_request(
        {
            "model": "claude",
            "max_tokens": 10,
            "stream": True,
            "temperature": None,
            "cache_control": {"type": "ephemeral"},
            "messages": [],
            "metadata": {"user_id": "u"},
            "tools": [
                {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}},
                {"type": "custom", "name": "g", "input_schema": {}, "defer_loading": True},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 3, "allowed_domains": None},
            ],
        }
    )
    assert reading.model == "claude"
    assert reading.options == {
        "max_tokens": 10,
        "metadata": {"user_id": "u"},
        "tools": {"g": {"defer_loading": True}},
    }
    assert reading.tools == (
        Tool("f", "d", {"type": "object"}),
        Tool("g", None, {}),
        Tool("web_search", None, {"type": "web_search_20250305", "max_uses": 3}),
    )
    assert reading.notes == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(
    "text thinking redacted_thinking tool_use tool_result image document compaction search_result mcp_tool_result"
    " base64 url file content user json_schema".split()
)
KEYS = st.sampled_from(
    ["type", "role", "content", "id", "name", "input", "tool_use_id", "source", "data", "text", "url", "is_error"]
)
BLOCK = st.dictionaries(KEYS, TYPES | JSON | st.dictionaries(KEYS, TYPES | JSON))
FIELDS = st.sampled_from(["model", "messages", "system", "tools", "output_config", "output_format"])


@settings(max_examples=200)
@given(
    st.dictionaries(FIELDS, JSON | st.lists(BLOCK, max_size=3)),
    st.lists(st.lists(BLOCK, max_size=3) | JSON, max_size=3),
)
def test_any_json_in_any_field(body: dict[str, Any], contents: list[Any]) -> None:
    read_request(body)
    read_request({"messages": [{"role": "user", "content": content} for content in contents]})


@pytest.mark.parametrize(
    ("thread", "pointed_at"),
    [
        ({"type": "create"}, None),
        ({"type": "continue", "previous_message_id": "msg_1"}, "msg_1"),
        ({"type": "continue", "previous_message_id": 1}, None),
        (None, None),
        ("msg_1", None),
    ],
)
def test_a_message_thread_points_at_the_response_it_continues(thread: Any, pointed_at: str | None) -> None:
    assert read_request({"messages": [], "thread": thread}).previous_response_id == pointed_at
