"""What the mock answers, as a function of the request."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.inprocess.mock_answer import (
    Reply,
    ToolCall,
    answer_for,
    completion_tokens,
    cut_to,
    embedding_of,
    is_right,
    split_directive,
    tokens,
    tool_calls_for,
    words,
)
from llmproxy.inprocess.openai_request import BadRequest, ChatRequest


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([user("Hi")], "You said: Hi"),
        ([user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "You said: ab"),
        ([user([{"type": "input_audio"}])], "You said: nothing (attachments: 1)"),
        ([user("a"), {"role": "assistant"}, user("b"), user("c")], "You said: c (earlier messages: 2)"),
        ([{"role": "system", "content": "Be kind."}], "You said: nothing"),
        ([user(None)], "You said: nothing"),
        ([user('/mock {"chunk_delay": 1}\nHi')], "You said: Hi"),
        ([user("/mock me")], "You said: /mock me"),
        ([user("x"), {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}], "The tool said: 1; 2"),
        ([user("x"), {"role": "function", "content": "1"}], "The tool said: 1"),
        ([{"role": "tool", "content": "1"}, user("x")], "You said: x"),
    ],
)
def test_answers(messages: list[dict[str, Any]], answer: str) -> None:
    assert answer_for(messages) == answer


def test_directives() -> None:
    assert split_directive(' /mock{"a": {"b": "}"}} rest ') == ({"a": {"b": "}"}}, "rest")
    with pytest.raises(BadRequest, match="/mock"):
        split_directive('/mock {"a": }')


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


@given(st.lists(st.text()), st.lists(st.text(), max_size=4), st.none() | st.integers(1, 20))
def test_a_cut_keeps_a_beginning(chunks: list[str], stops: list[str], limit: int | None) -> None:
    kept, reason = cut_to(chunks, stops, limit)
    whole, text = "".join(chunks), "".join(kept)
    assert whole.startswith(text) and not any(stop in text for stop in stops if stop)
    assert limit is None or tokens(text) <= limit
    if text == whole:
        assert list(kept) == chunks and reason == "stop"
    assert list(kept[:-1]) == chunks[: len(kept) - 1 if kept else 0]


def test_tokens() -> None:
    assert [tokens("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
    reply = Reply(("abcde",), "stop", "think", (ToolCall("tool", "{}"),))
    assert completion_tokens([reply, reply]) == 2 * (2 + 2 + 1 + 1)


def tools_named(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


@pytest.mark.parametrize(
    ("text", "choice", "more", "called"),
    [
        ("add and sub", None, {}, ["add", "sub"]),
        ("add and sub", "auto", {"parallel_tool_calls": False}, ["add"]),
        ("address", "auto", {}, []),
        ("add", "none", {}, []),
        ("nothing", "required", {}, ["add"]),
        ("sub", "required", {}, ["sub"]),
        ("add", {"type": "function", "function": {"name": "sub"}}, {}, ["sub"]),
        ("add", {"type": "allowed_tools", "allowed_tools": {}}, {}, ["add"]),
    ],
)
def test_tool_calls(text: str, choice: Any, more: dict[str, Any], called: list[str]) -> None:
    body = {"messages": [user(text)], "tools": tools_named("add", "sub"), "tool_choice": choice} | more
    assert tool_calls_for(ChatRequest.model_validate(body)) == [ToolCall(name, "{}") for name in called]


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required"},
        {"tools": tools_named("a"), "tool_choice": {"type": "function", "function": {"name": "b"}}},
    ],
)
def test_tool_choices_that_cannot_be(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="tool_choice"):
        tool_calls_for(ChatRequest.model_validate({"messages": [user("x")]} | body))


def test_quality_is_a_share() -> None:
    right = sum(is_right(0.7, "model", json.dumps(number)) for number in range(1000))
    assert 650 < right < 750
    assert is_right(1, "any", "text") and not is_right(0, "any", "text")


def test_embeddings_are_the_same_for_the_same_text() -> None:
    assert embedding_of("a", 5) == embedding_of("a", 5) != embedding_of("b", 5)
