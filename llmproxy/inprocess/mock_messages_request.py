"""A Messages request, read as the Chat Completions request that means the same."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

# Before Python 3.12 pydantic does not take typing's.
from typing_extensions import TypedDict

from llmproxy.inprocess.openai_objects import JsonObject
from llmproxy.inprocess.openai_request import BadRequest, Body, ChatRequest, Part, parse


class _Message(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    role: Literal["user", "assistant", "system"]
    content: str | list[Part]


class _Tool(Body):
    """A tool; one of another type than `custom` is run by the provider."""

    type: str | None = None
    name: str = Field(min_length=1)
    input_schema: dict[str, Any] | None = None


class _ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Format(Body):
    type: Literal["json_schema"]
    value: dict[str, Any] = Field(alias="schema")


class _OutputConfig(Body):
    format: _Format | None = None


class _Thread(Body):
    type: Literal["create", "continue"]
    previous_message_id: str | None = None


class _CountRequest(Body):
    """The body of `POST /v1/messages/count_tokens`."""

    model: str | None = None
    messages: list[_Message]
    system: str | list[Part] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None
    # Its name while it was in beta.
    output_format: _Format | None = None
    thread: _Thread | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the provider keeps what came before, the tools included, and may have been paused."""
        return self.thread is not None and self.thread.type == "continue"


class _MessagesRequest(_CountRequest):
    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    stream: bool | None = None


def read(body: JsonObject) -> ChatRequest:
    """The request as Chat Completions would have it. Raises `BadRequest`."""
    request = parse(_MessagesRequest, body)
    return _chat(request, {"max_tokens": request.max_tokens, "stop": request.stop_sequences, "stream": request.stream})


def read_count(body: JsonObject) -> ChatRequest:
    """A request to count tokens, the same way: it has neither a limit nor a stream. Raises `BadRequest`."""
    return _chat(parse(_CountRequest, body), {})


def _chat(request: _CountRequest, more: JsonObject) -> ChatRequest:
    if not request.messages and not request.goes_on:
        raise BadRequest("Invalid value for 'messages': there is at least one.", "messages", "invalid_value")
    messages: list[JsonObject] = []
    if request.system:
        messages.append({"role": "system", "content": _content(request.system)})
    for message in request.messages:
        messages += _messages(message)
    choice = request.tool_choice
    chosen: str | JsonObject | None = None
    if choice is not None and choice.type == "tool":
        chosen = {"type": "function", "function": {"name": choice.name or ""}}
    elif choice is not None:
        chosen = "required" if choice.type == "any" else choice.type
    if request.goes_on and not request.tools:
        chosen = None
    wanted = (request.output_config and request.output_config.format) or request.output_format
    return parse(
        ChatRequest,
        {
            "model": request.model,
            "messages": messages or [{"role": "user", "content": ""}],
            "tools": None if request.tools is None else [_tool(tool) for tool in request.tools],
            "tool_choice": chosen,
            "parallel_tool_calls": not choice.disable_parallel_tool_use if choice is not None else None,
            "response_format": wanted and {"type": "json_schema", "json_schema": {"schema": wanted.value}},
            **more,
        },
    )


def _messages(message: _Message) -> list[JsonObject]:
    content = message["content"]
    if isinstance(content, str):
        return [{"role": message["role"], "content": content}]
    results = [part for part in content if part["type"] == "tool_result"]
    rest = [
        part for part in content if part["type"] not in ("tool_result", "tool_use", "thinking", "redacted_thinking")
    ]
    # Claude Code puts reminders beside a tool's result. They are not what is to be answered, so the result stands last.
    said = [{"role": message["role"], "content": _content(rest)}] if rest or not results else []
    return said + [{"role": "tool", "content": _content(_output(result))} for result in results]


def _output(result: Part) -> str | list[JsonObject] | None:
    output: Any = result.get("content")
    if isinstance(output, list):
        return [part for part in output if isinstance(part, dict) and isinstance(part.get("type"), str)]
    return output if isinstance(output, str) else None


def _content(content: str | Sequence[Part | JsonObject] | None) -> str | list[JsonObject] | None:
    if content is None or isinstance(content, str):
        return content
    return [{"type": part["type"], **({"text": part["text"]} if "text" in part else {})} for part in content]


def _tool(tool: _Tool) -> JsonObject:
    if tool.type not in (None, "custom"):
        return {"type": tool.type}
    return {"type": "function", "function": {"name": tool.name, "parameters": tool.input_schema}}
