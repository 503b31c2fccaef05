from typing import Any

import pytest
from llm import Attachment, Tool
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.chat_request import read_request


def read(*messages: Any) -> tuple[Message, ...]:
    return read_request({"messages": list(messages)}).input


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALLED = ToolCallPart("f", {"x": 1}, "c")
PNG = Attachment(type="image/png", content=b"\0\0\0")
PNG_URL = "data:image/png;base64,AAAA"

MESSAGES: dict[str, tuple[dict[str, Any], Message]] = {
    "text": ({"role": "user", "content": "a"}, Message("user", [TextPart("a")])),
    "text in a list": ({"role": "user", "content": [{"type": "text", "text": "a"}]}, Message("user", [TextPart("a")])),
    "strings in a list": ({"role": "user", "content": ["a", "b"]}, Message("user", [TextPart("a"), TextPart("b")])),
    "null": ({"role": "user", "content": None}, Message("user")),
    "empty": ({"role": "user", "content": ""}, Message("user")),
    "empty list": ({"role": "user", "content": []}, Message("user")),
    "nothing": ({"role": "user"}, Message("user")),
    "space is text": ({"role": "user", "content": " "}, Message("user", [TextPart(" ")])),
    "system": ({"role": "system", "content": "a"}, Message("system", [TextPart("a")])),
    "developer": (
        {"role": "developer", "content": "a"},
        Message("system", [TextPart("a")], {"openai": {"role": "developer"}}),
    ),
    "unknown role": ({"role": "critic", "content": "a"}, Message("critic", [TextPart("a")])),
    "name": (
        {"role": "user", "content": "a", "name": "n"},
        Message("user", [TextPart("a")], {"openai": {"name": "n"}}),
    ),
    "cache control is dropped": (
        {
            "role": "user",
            "cache_control": {"type": "ephemeral"},
            "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        },
        Message("user", [TextPart("a")]),
    ),
    "false and null are dropped": (
        {"role": "assistant", "content": "a", "prefix": False, "refusal": None, "annotations": [], "audio": None},
        Message("assistant", [TextPart("a")]),
    ),
    "prefix": (
        {"role": "assistant", "content": "a", "prefix": True},
        Message("assistant", [TextPart("a")], {"openai": {"prefix": True}}),
    ),
    "calls": ({"role": "assistant", "content": None, "tool_calls": [CALL]}, Message("assistant", [CALLED])),
    "text and calls": (
        {"role": "assistant", "content": "a", "tool_calls": [{**CALL, "index": 0}]},
        Message("assistant", [TextPart("a"), CALLED]),
    ),
    "a function call": (
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
        Message("assistant", [ToolCallPart("f", provider_metadata={"openai": {"type": "function_call"}})]),
    ),
    "reasoning": (
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
        Message(
            "assistant",
            [ReasoningPart("r", provider_metadata={"openai": {"field": "reasoning_content"}}), TextPart("a")],
        ),
    ),
    "an answer's audio by its id": (
        {"role": "assistant", "audio": {"id": "a"}},
        Message("assistant", [AttachmentPart(None, {"openai": {"audio_id": "a"}})]),
    ),
    "a result without a call": (
        {"role": "tool", "tool_call_id": "c", "content": "out", "name": "g"},
        Message("tool", [ToolResultPart("g", "out", "c")]),
    ),
    "a result in parts": (
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
                {"type": "image_url", "image_url": {"url": PNG_URL}},
            ],
        },
        Message("tool", [ToolResultPart("", "ab", "c", attachments=[PNG])]),
    ),
    "a result that is an object": (
        {"role": "tool", "tool_call_id": "c", "content": {"a": 1}},
        Message("tool", [ToolResultPart("", '{"a": 1}', "c")]),
    ),
    "no result": ({"role": "tool", "content": None}, Message("tool", [ToolResultPart()])),
    "a function's result": (
        {"role": "function", "name": "f", "content": "out"},
        Message("tool", [ToolResultPart("f", "out")], {"openai": {"role": "function"}}),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    given, message = MESSAGES[name]
    reading = read_request({"messages": [given]})
    assert reading.input == (message,)
    assert reading.notes == ()


PARTS: dict[str, tuple[Any, list[Part]]] = {
    "image": (
        {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}},
        [AttachmentPart(PNG, {"openai": {"detail": "low"}})],
    ),
    "image by its bare URL": ({"type": "image_url", "image_url": PNG_URL}, [AttachmentPart(PNG)]),
    "image on the web": (
        {"type": "image_url", "image_url": {"url": "https://x.test/a"}},
        [AttachmentPart(Attachment(type="image/*", url="https://x.test/a"))],
    ),
    "document on the web": (
        {"type": "document_url", "document_url": "https://x.test/a.pdf"},
        [AttachmentPart(Attachment(type="application/pdf", url="https://x.test/a.pdf"))],
    ),
    "audio": (
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        [AttachmentPart(Attachment(type="audio/mpeg", content=b"\0\0\0"))],
    ),
    "audio by its URL": (
        {"type": "input_audio", "input_audio": {"data": "https://x.test/a.wav"}},
        [AttachmentPart(Attachment(type="audio/wav", url="https://x.test/a.wav"))],
    ),
    "file": (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        [AttachmentPart(Attachment(type="application/pdf", content=b"\0\0\0"), {"openai": {"filename": "a.pdf"}})],
    ),
    "file without a type": (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
        [AttachmentPart(Attachment(type="application/pdf", content=b"\0\0\0"), {"openai": {"filename": "a.pdf"}})],
    ),
    "file of the provider": (
        {"type": "file", "file": {"file_id": "f"}},
        [AttachmentPart(None, {"openai": {"file_id": "f"}})],
    ),
    "thinking": (
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}], "closed": True},
        [ReasoningPart("a", provider_metadata={"openai": {"type": "thinking"}})],
    ),
    "refusal": ({"type": "refusal", "refusal": "no"}, [TextPart("no", {"openai": {"refusal": True}})]),
    "empty text": ({"type": "text", "text": ""}, []),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str) -> None:
    given, expected = PARTS[name]
    reading = read_request({"messages": [{"role": "user", "content": [given]}]})
    assert reading.input == (Message("user", expected),)
    assert reading.notes == ()


def test_an_unknown_part_is_kept_and_noted() -> None:
    reading = read_request({"messages": [{"role": "user", "content": [{"type": "hologram", "x": 1}]}]})
    assert reading.input[0].parts == [AttachmentPart(None, {"openai": {"type": "hologram", "x": 1}})]
    assert reading.notes == ("unknown content part: hologram",)


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (7, []),
        ({"type": "text", "text": 7}, []),
        (
            {"type": "file", "file": {"file_data": "https://x.test/a.pdf"}},
            [AttachmentPart(Attachment(type="application/pdf", url="https://x.test/a.pdf"))],
        ),
        (
            {"type": "thinking", "thinking": "a"},
            [ReasoningPart("a", provider_metadata={"openai": {"type": "thinking"}})],
        ),
        ({"type": "thinking", "thinking": []}, []),
    ],
)
def test_odd_parts(block: Any, parts: list[Part]) -> None:
    assert read({"role": "user", "content": [block]}) == (Message("user", parts),)


def test_what_else_a_call_says_is_kept() -> None:
    call = {"id": "c", "type": "web", "function": {"name": "f", "arguments": "{}", "thought": "t"}}
    assert read({"role": "assistant", "tool_calls": [call]})[0].parts == [
        ToolCallPart("f", {}, "c", provider_metadata={"openai": {"type": "web", "function": {"thought": "t"}}})
    ]


def test_a_result_is_named_as_its_call() -> None:
    messages = read({"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c", "content": "o"})
    assert messages[1].parts == [ToolResultPart("f", "o", "c")]


def test_a_custom_tools_call() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
    assert read({"role": "assistant", "tool_calls": [call]})[0].parts == [
        ToolCallPart("f", {"input": "x"}, "c", provider_metadata={"openai": {"type": "custom_tool_call"}})
    ]


def test_tools() -> None:
    schema = {"type": "object", "properties": {}}
    reading = read_request(
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": schema, "strict": True},
                },
                {"type": "function", "function": {"name": "g"}, "cache_control": {"type": "ephemeral"}},
                {"type": "custom", "custom": {"name": "h", "format": {"type": "text"}}},
                {"type": "web_search", "limit": 3},
                {"type": "builtin_function", "function": {"name": "$web_search"}},
            ],
            "functions": [{"name": "old", "parameters": schema}],
        }
    )
    assert reading.tools == (
        Tool("f", "d", schema),
        Tool("g"),
        Tool("h", None, {"type": "custom", "format": {"type": "text"}}),
        Tool("web_search", None, {"type": "web_search", "limit": 3}),
        Tool("$web_search", None, {"type": "builtin_function"}),
        Tool("old", None, schema),
    )
    assert reading.options == {"tools": {"f": {"strict": True}}}


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"a": 1}}},
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True}},
        ),
        ({"type": "json_object", "schema": {"a": 1}}, {"type": "json_object"}),
    ],
)
def test_schema(given: Any, rest: Any) -> None:
    reading = read_request({"response_format": given})
    assert (reading.schema, reading.options) == ({"a": 1}, {"response_format": rest})


def test_options() -> None:
    reading = read_request(
        {
            "model": "m",
            "messages": [],
            "stream": True,
            "temperature": 0,
            "stop": None,
            "response_format": {"type": "text"},
        }
    )
    assert (reading.model, reading.schema) == ("m", None)
    assert reading.options == {"temperature": 0, "response_format": {"type": "text"}}


def test_odd_fields_are_skipped_and_noted() -> None:
    reading = read_request({"model": 7, "messages": [3, {"role": 5, "content": 7}], "tools": {}})
    assert (reading.model, reading.input) == (None, (Message("user"),))
    assert set(reading.notes) == {
        "messages holds what is not an object",
        "role is not a string",
        "content is neither a string nor an array",
        "tools is not an array",
    }
