import base64
import json
from typing import Any

import pytest
from llm import Attachment
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.items import read_items
from llmproxy.reconstruct.json_values import Notes

PNG = b"\x89PNG"
PNG64 = base64.b64encode(PNG).decode()


def read(*items: Any, role: str = "user") -> tuple[Message, ...]:
    return read_items(items, Notes(), default_role=role)


def openai(**fields: Any) -> dict[str, Any]:
    return {"openai": fields}


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a": 1}', "status": "done"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, []),
        ("", []),
        ([], []),
        ([{"type": "input_text", "text": ""}], []),
        ("hi ", [TextPart("hi ")]),
        ([{"type": "input_text", "text": "hi "}], [TextPart("hi ")]),
        (["hi "], [TextPart("hi ")]),
        ([{"type": "output_text", "text": "a"}, {"type": "text", "text": "b"}], [TextPart("a"), TextPart("b")]),
        ([{"type": "refusal", "refusal": "no"}], [TextPart("no", openai(refusal=True))]),
        (
            [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG64}", "detail": "low"}],
            [AttachmentPart(Attachment(type="image/png", content=PNG), openai(detail="low"))],
        ),
        (
            [{"type": "input_image", "image_url": {"url": "https://x.test/cat.gif"}}],
            [AttachmentPart(Attachment(type="image/gif", url="https://x.test/cat.gif"))],
        ),
        ([{"type": "input_image", "file_id": "file-1"}], [AttachmentPart(None, openai(file_id="file-1"))]),
        (
            [{"type": "input_file", "file_data": f"data:application/pdf;base64,{PNG64}", "filename": "a.pdf"}],
            [AttachmentPart(Attachment(type="application/pdf", content=PNG), openai(filename="a.pdf"))],
        ),
        (
            [{"type": "input_file", "file_data": PNG64, "filename": "a.pdf"}],
            [AttachmentPart(Attachment(type="application/pdf", content=PNG), openai(filename="a.pdf"))],
        ),
        ([{"type": "input_file", "file_id": "f"}], [AttachmentPart(None, openai(file_id="f"))]),
        (
            [{"type": "input_file", "file_url": "https://x.test/a.pdf"}],
            [AttachmentPart(Attachment(type="application/pdf", url="https://x.test/a.pdf"))],
        ),
        (
            [{"type": "input_audio", "input_audio": {"data": PNG64, "format": "mp3"}}],
            [AttachmentPart(Attachment(type="audio/mpeg", content=PNG))],
        ),
        ([{"type": "hologram", "x": 1}], [AttachmentPart(None, openai(type="hologram", x=1))]),
    ],
)
def test_message_content(content: Any, parts: list[Part]) -> None:
    assert read({"role": "user", "content": content}) == (Message("user", parts),)


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        (CALL, [ToolCallPart("f", {"a": 1}, "c1")]),
        ({**CALL, "arguments": ""}, [ToolCallPart("f", {}, "c1")]),
        (
            {**CALL, "arguments": '{"a'},
            [ToolCallPart("f", {}, "c1", provider_metadata={"llmproxy": {"arguments": '{"a'}})],
        ),
        ({**CALL, "namespace": "n"}, [ToolCallPart("f", {"a": 1}, "c1", provider_metadata=openai(namespace="n"))]),
        (
            {"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "sql", "input": "SELECT 1"},
            [ToolCallPart("sql", {"input": "SELECT 1"}, "c", provider_metadata=openai(type="custom_tool_call"))],
        ),
        (
            {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
            [ToolCallPart("local_shell", {"command": ["ls"]}, "c", provider_metadata=openai(type="local_shell_call"))],
        ),
        (
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"},
            [ReasoningPart("", redacted=True, provider_metadata=openai(id="rs", encrypted_content="e"))],
        ),
        (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]},
            [ReasoningPart("s", provider_metadata=openai(summary=[{"type": "summary_text", "text": "s"}]))],
        ),
        (
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
            [ReasoningPart("t")],
        ),
        (
            {
                "type": "reasoning",
                "id": "rs",
                "content": [{"type": "reasoning_text", "text": "t"}],
                "signature": "s",
                "format": "anthropic-claude-v1",
            },
            [ReasoningPart("t", provider_metadata=openai(id="rs", signature="s", format="anthropic-claude-v1"))],
        ),
        (
            {"type": "computer_call", "call_id": "c", "actions": [{"type": "wait"}], "pending_safety_checks": []},
            [
                ToolCallPart(
                    "computer", {"actions": [{"type": "wait"}]}, "c", provider_metadata=openai(type="computer_call")
                )
            ],
        ),
        (
            {"type": "compaction", "id": "cmp", "encrypted_content": "e"},
            [AttachmentPart(None, openai(type="compaction", id="cmp", encrypted_content="e"))],
        ),
        (
            {
                "type": "web_search_call",
                "id": "ws",
                "status": "completed",
                "action": {"type": "search", "query": "q"},
            },
            [
                ToolCallPart(
                    "web_search", {"type": "search", "query": "q"}, "ws", True, openai(type="web_search_call")
                ),
                ToolResultPart("web_search", "completed", "ws", server_executed=True),
            ],
        ),
        (
            {"type": "web_search_call", "id": "ws", "status": "in_progress"},
            [ToolCallPart("web_search", {}, "ws", True, openai(type="web_search_call"))],
        ),
        (
            {"type": "file_search_call", "id": "fs", "queries": ["q"], "results": [{"b": 1, "a": 2}]},
            [
                ToolCallPart("file_search", {"queries": ["q"]}, "fs", True, openai(type="file_search_call")),
                ToolResultPart("file_search", '[{"a": 2, "b": 1}]', "fs", server_executed=True),
            ],
        ),
        (
            {
                "type": "code_interpreter_call",
                "id": "ci",
                "code": "1+1",
                "container_id": "k",
                "outputs": [
                    {"type": "logs", "logs": "2"},
                    {"type": "image", "url": f"data:image/png;base64,{PNG64}"},
                ],
            },
            [
                ToolCallPart(
                    "code_interpreter",
                    {"code": "1+1"},
                    "ci",
                    True,
                    openai(type="code_interpreter_call", container_id="k"),
                ),
                ToolResultPart("code_interpreter", "2", "ci", True, [Attachment(type="image/png", content=PNG)]),
            ],
        ),
        (
            {"type": "image_generation_call", "id": "ig", "revised_prompt": "cat", "result": PNG64, "size": "1x1"},
            [
                ToolCallPart(
                    "image_generation", {"prompt": "cat"}, "ig", True, openai(type="image_generation_call", size="1x1")
                ),
                ToolResultPart("image_generation", "completed", "ig", server_executed=True),
                AttachmentPart(Attachment(type="image/png", content=PNG)),
            ],
        ),
        (
            {
                "type": "mcp_call",
                "id": "mcp",
                "name": "echo",
                "server_label": "s",
                "arguments": '{"m": 1}',
                "output": "1",
            },
            [
                ToolCallPart("echo", {"m": 1}, "mcp", True, openai(type="mcp_call", server_label="s")),
                ToolResultPart("echo", "1", "mcp", server_executed=True),
            ],
        ),
    ],
)
def test_assistant_items(item: dict[str, Any], parts: list[Part]) -> None:
    assert read(item) == (Message("assistant", parts),)


def test_consecutive_items_of_one_side_are_one_message() -> None:
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}
    said = {"type": "message", "role": "assistant", "content": "let me see", "phase": "commentary", "id": "msg"}
    other = {**CALL, "call_id": "c2", "name": "g"}
    messages = read({"role": "user", "content": "q"}, reasoning, said, CALL, other, RESULT, {**RESULT, "call_id": "c2"})
    assert messages == (
        Message("user", [TextPart("q")]),
        Message(
            "assistant",
            [
                ReasoningPart("t"),
                TextPart("let me see", openai(phase="commentary")),
                ToolCallPart("f", {"a": 1}, "c1"),
                ToolCallPart("g", {"a": 1}, "c2"),
            ],
        ),
        Message("tool", [ToolResultPart("f", "42", "c1"), ToolResultPart("g", "42", "c2")]),
    )


def test_users_messages_stay_apart_and_developer_is_system() -> None:
    assert read({"role": "developer", "content": "d"}, {"role": "user", "content": ""}, {"role": "user"}) == (
        Message("system", [TextPart("d")], openai(role="developer")),
        Message("user", []),
        Message("user", []),
    ), "one message for each that was sent, empty ones included"


@pytest.mark.parametrize(
    ("output", "text", "media"),
    [
        ("42", "42", []),
        (None, "", []),
        ([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "ab", []),
        (
            [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG64}"}],
            "",
            [Attachment(type="image/png", content=PNG)],
        ),
        ([{"type": "input_file", "file_id": "f"}], '{"file_id": "f", "type": "input_file"}', []),
        ({"b": 1, "a": None}, '{"a": null, "b": 1}', []),
        ([1, 2], "[1, 2]", []),
    ],
)
def test_tool_output(output: Any, text: str, media: list[Attachment]) -> None:
    result = ToolResultPart("", text, "c1", attachments=media)
    assert read({**RESULT, "output": output}) == (Message("tool", [result]),)


def test_failed_patch_keeps_its_status() -> None:
    call = {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "x"}}
    output = {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no such file"}
    (_, result) = read(call, output)
    assert result.parts == [
        ToolResultPart(
            "apply_patch",
            "no such file",
            "c",
            provider_metadata=openai(status="failed", type="apply_patch_call_output"),
        )
    ]


def test_hosted_shell_answers_itself() -> None:
    call = {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}
    output = {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "x", "stderr": ""}]}
    hosted = {**call, "environment": {"type": "container_reference", "container_id": "k"}}
    assert [message.role for message in read(hosted, output)] == ["assistant"]
    assert [message.role for message in read(call, output)] == ["assistant", "tool"]
    (message,) = read(hosted, output)
    result = message.parts[1]
    assert isinstance(result, ToolResultPart)
    assert result.server_executed
    assert json.loads(result.output) == [{"stdout": "x", "stderr": ""}]


def test_a_program_that_calls_tools_is_run_by_the_provider() -> None:
    program = {"type": "program", "id": "p", "call_id": "c", "code": "f()", "fingerprint": "x"}
    call = {**CALL, "caller": {"type": "program", "call_id": "c"}}
    output = {"type": "program_output", "id": "o", "call_id": "c", "result": "42", "status": "completed"}
    asked, tool, answered = read(program, call, RESULT, output, role="assistant")
    assert asked.parts == [
        ToolCallPart("program", {"code": "f()"}, "c", True, openai(type="program", fingerprint="x")),
        ToolCallPart("f", {"a": 1}, "c1", provider_metadata=openai(caller={"type": "program", "call_id": "c"})),
    ]
    assert tool.role == "tool"
    assert answered.parts == [
        ToolResultPart("program", "42", "c", server_executed=True, provider_metadata=openai(type="program_output"))
    ]


def test_the_local_shells_output_names_its_call_by_its_own_id() -> None:
    call = {"type": "local_shell_call", "id": "ls", "call_id": "c", "action": {"command": ["ls"]}}
    _, tool = read(call, {"type": "local_shell_call_output", "id": "c", "output": "x", "status": "completed"})
    assert isinstance(tool.parts[0], ToolResultPart)
    assert (tool.parts[0].name, tool.parts[0].tool_call_id) == ("local_shell", "c")


@pytest.mark.parametrize("kind", ["compaction_trigger", "configuration_update", "additional_tools", "item_reference"])
def test_what_only_has_to_be_sent_back_is_kept(kind: str) -> None:
    notes = Notes()
    (message,) = read_items([{"type": kind, "id": "x"}], notes, default_role="user")
    assert message.parts == [AttachmentPart(None, openai(type=kind, id="x"))]
    assert list(notes) == []


def test_tool_search_without_call_id_is_joined_to_its_search() -> None:
    search = {"type": "tool_search_call", "id": "tsc", "call_id": None, "execution": "server", "arguments": {"q": "x"}}
    found = {
        "type": "tool_search_output",
        "id": "tso",
        "call_id": None,
        "execution": "server",
        "tools": [{"name": "t"}],
    }
    (message,) = read(search, found, role="assistant")
    call, result = message.parts
    assert isinstance(call, ToolCallPart)
    assert isinstance(result, ToolResultPart)
    assert call.tool_call_id == result.tool_call_id == "tsc"
    assert call.server_executed and result.server_executed
    assert result.output == '[{"name": "t"}]'


def test_approvals() -> None:
    request = {"type": "mcp_approval_request", "id": "ap", "name": "t", "arguments": "{}", "server_label": "s"}
    response = {"type": "mcp_approval_response", "approval_request_id": "ap", "approve": True}
    asked, answered = read(request, response)
    assert asked.role == "assistant"
    assert answered.role == "tool"
    assert isinstance(answered.parts[0], ToolResultPart)
    assert answered.parts[0].output == "approved"


def test_a_call_of_an_unknown_kind_is_a_call() -> None:
    notes = Notes()
    items = [
        {"type": "ai_search_call", "id": "x", "call_id": "c", "arguments": '{"q": 1}', "index": "i"},
        {"type": "ai_search_call_output", "id": "y", "call_id": "c", "output": "found", "status": "completed"},
        {"type": "dream_call_output", "id": "z", "call_id": "d", "output": "lost"},
    ]
    answer, lost = read_items(items, notes, default_role="assistant")
    assert answer.parts == [
        ToolCallPart("ai_search", {"q": 1}, "c", True, openai(type="ai_search_call", index="i")),
        ToolResultPart(
            "ai_search", "found", "c", server_executed=True, provider_metadata=openai(type="ai_search_call_output")
        ),
    ]
    assert lost.parts == [AttachmentPart(None, openai(**items[2]))]
    assert list(notes) == ["unknown item: ai_search_call", "unknown item: dream_call_output"]


def test_what_is_not_known_is_kept_and_noted() -> None:
    notes = Notes()
    items = [{"type": "telepathy", "x": 1}, {"type": "dream_output", "y": 2}, 7]
    messages = read_items(items, notes, default_role="user")
    assert [message.role for message in messages] == ["assistant", "tool"]
    assert list(notes) == ["unknown item: telepathy", "unknown item: dream_output", "item is not an object"]
