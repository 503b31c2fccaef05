import base64
from typing import Any

import pytest
from llm import Attachment
from llm.parts import AttachmentPart, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.anthropic_blocks import Blocks
from llmproxy.reconstruct.json_values import Notes

PNG = b"\x89PNG"
PNG64 = base64.b64encode(PNG).decode()
BASE64 = {"type": "base64", "media_type": "image/png", "data": PNG64}


def anthropic(**fields: Any) -> dict[str, Any]:
    return {"anthropic": fields}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "text", "text": " hi", "cache_control": {"type": "ephemeral"}}, TextPart(" hi")),
        ({"type": "text", "text": "x", "citations": None}, TextPart("x")),
        (
            {"type": "text", "text": "x", "citations": [{"type": "char_location"}]},
            TextPart("x", anthropic(citations=[{"type": "char_location"}])),
        ),
        (
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            ReasoningPart("hm", provider_metadata=anthropic(signature="s")),
        ),
        (
            {"type": "thinking", "thinking": "", "signature": "s"},
            ReasoningPart("", provider_metadata=anthropic(signature="s")),
        ),
        (
            {"type": "redacted_thinking", "data": "d"},
            ReasoningPart("", provider_metadata=anthropic(type="redacted_thinking", data="d")),
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
            ToolCallPart("f", {"a": 1}, "t"),
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "code_execution"}},
            ToolCallPart("f", {}, "t", provider_metadata=anthropic(caller={"type": "code_execution"})),
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": '{"a'},
            ToolCallPart("f", {}, "t", provider_metadata={"llmproxy": {"arguments": '{"a'}}),
        ),
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            ToolCallPart("web_search", {"query": "q"}, "s", server_executed=True),
        ),
        (
            {"type": "mcp_tool_use", "id": "m", "name": "echo", "server_name": "srv", "input": {}},
            ToolCallPart("echo", {}, "m", True, anthropic(mcp_server_name="srv")),
        ),
        (
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u", "title": "t"}]},
            ToolResultPart("web_search", '[{"title": "t", "url": "u"}]', "s", server_executed=True),
        ),
        (
            {"type": "mcp_tool_result", "tool_use_id": "m", "is_error": True, "content": "bad"},
            ToolResultPart("mcp", "bad", "m", True, provider_metadata=anthropic(is_error=True)),
        ),
        ({"type": "image", "source": BASE64}, AttachmentPart(Attachment(type="image/png", content=PNG))),
        (
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a"}},
            AttachmentPart(Attachment(type="image/*", url="https://x.test/a")),
        ),
        (
            {"type": "document", "source": {"type": "file", "file_id": "f"}, "title": "T"},
            AttachmentPart(None, anthropic(file_id="f", type="document", title="T")),
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}, "title": "T"},
            AttachmentPart(Attachment(type="text/plain", content=b"abc"), anthropic(title="T")),
        ),
        (
            {"type": "container_upload", "file_id": "f"},
            AttachmentPart(None, anthropic(type="container_upload", file_id="f")),
        ),
        (
            {"type": "compaction", "content": "summary"},
            AttachmentPart(None, anthropic(type="compaction", content="summary")),
        ),
        *(
            ({"type": kind, "x": 1, "cache_control": {}}, AttachmentPart(None, anthropic(type=kind, x=1)))
            for kind in ("fallback", "mcp_tool_listing", "tool_addition", "tool_removal")
        ),
        (
            {"type": "tool_use", "id": "t", "name": "f", "input": {}, "toolset_name": "s"},
            ToolCallPart("f", {}, "t", provider_metadata=anthropic(toolset_name="s")),
        ),
        (
            {"type": "image", "source": BASE64, "transformations": [{"type": "crop"}]},
            AttachmentPart(Attachment(type="image/png", content=PNG), anthropic(transformations=[{"type": "crop"}])),
        ),
        (
            {"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "found"}]},
            TextPart("found", anthropic(type="search_result", source="u", title="t")),
        ),
    ],
)
def test_block(block: dict[str, Any], part: Part) -> None:
    notes = Notes()
    assert Blocks(notes).parts([block]) == [part]
    assert list(notes) == []


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}], [{"type": "thinking"}]])
def test_nothing_said(content: Any) -> None:
    assert Blocks(Notes()).parts(content) == []


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"content": "42"}, ToolResultPart("f", "42", "t")),
        ({"content": [{"type": "text", "text": "42"}]}, ToolResultPart("f", "42", "t")),
        ({}, ToolResultPart("f", "", "t")),
        (
            {"content": "no", "is_error": True},
            ToolResultPart("f", "no", "t", provider_metadata=anthropic(is_error=True)),
        ),
        ({"content": "yes", "is_error": False}, ToolResultPart("f", "yes", "t")),
        (
            {"content": "yes", "toolset_name": "s"},
            ToolResultPart("f", "yes", "t", provider_metadata=anthropic(toolset_name="s")),
        ),
        (
            {"content": [{"type": "text", "text": "see"}, {"type": "image", "source": BASE64}]},
            ToolResultPart("f", "see", "t", attachments=[Attachment(type="image/png", content=PNG)]),
        ),
        (
            {"content": [{"type": "tool_reference", "tool_name": "g"}]},
            ToolResultPart("f", '{"tool_name": "g", "type": "tool_reference"}', "t"),
        ),
    ],
)
def test_tool_result_is_named_by_its_call(fields: dict[str, Any], part: Part) -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    assert Blocks(Notes()).parts([call, {"type": "tool_result", "tool_use_id": "t", **fields}])[1:] == [part]


def test_what_is_not_known_is_kept_and_noted() -> None:
    notes = Notes()
    parts = Blocks(notes).parts([{"type": "hologram", "x": 1, "cache_control": {}}, 7, {"type": "image"}])
    assert parts == [
        AttachmentPart(None, anthropic(type="hologram", x=1)),
        AttachmentPart(None, anthropic(type="image")),
    ]
    assert list(notes) == ["unknown block: hologram", "block is not an object", "unknown source: None"]
