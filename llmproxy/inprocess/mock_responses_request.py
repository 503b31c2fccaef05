"""A Responses request, read as the Chat Completions request that means the same."""

from typing import Any, Literal, NotRequired, Self

from pydantic import ConfigDict, Field, model_validator

# Before Python 3.12 pydantic does not take typing's.
from typing_extensions import TypedDict

from llmproxy.inprocess.openai_objects import JsonObject
from llmproxy.inprocess.openai_request import BadRequest, Body, ChatRequest, Part, parse


class _Item(TypedDict):
    """An item of the input; one without a type is a message."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    type: NotRequired[str]
    role: NotRequired[Literal["system", "developer", "user", "assistant"]]
    content: NotRequired[str | list[Part] | None]
    output: NotRequired[Any]


class _Tool(Body):
    type: str
    name: str | None = None
    parameters: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_its_name(self) -> Self:
        if self.type == "function" and not self.name:
            raise ValueError("a tool of type function has a name")
        return self


class _ToolChoice(Body):
    type: str
    name: str | None = None
    # Of the type `allowed_tools`.
    mode: Literal["auto", "required"] = "auto"
    tools: list[_Tool] = Field(default_factory=list)


class _Format(Body):
    type: Literal["text", "json_object", "json_schema"]
    value: dict[str, Any] | None = Field(default=None, alias="schema")


class _Text(Body):
    format: _Format | None = None


class _ResponsesRequest(Body):
    model: str | None = None
    # Absent beside a stored prompt or an earlier response.
    input: str | list[_Item] | None = None
    instructions: str | list[_Item] | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    stream: bool | None = None


def read(body: JsonObject) -> ChatRequest:
    """The request as Chat Completions would have it. Raises `BadRequest`."""
    request = parse(_ResponsesRequest, body)
    if request.input is None and not any(body.get(key) for key in ("prompt", "previous_response_id", "conversation")):
        raise BadRequest("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    messages = _messages(request.instructions, "system") + _messages(request.input, "user")
    tools, choice = _tools(request)
    return parse(
        ChatRequest,
        {
            "model": request.model,
            "messages": messages or [{"role": "user", "content": ""}],
            "max_completion_tokens": request.max_output_tokens,
            "tools": tools,
            "tool_choice": choice,
            "parallel_tool_calls": request.parallel_tool_calls,
            "response_format": _response_format(request.text),
            "stream": request.stream,
        },
    )


def custom_tools(body: JsonObject) -> set[str]:
    """The names of the tools that take a text in place of arguments."""
    return {tool["name"] for tool in body.get("tools") or () if tool.get("type") == "custom" and tool.get("name")}


def _messages(items: str | list[_Item] | None, role: str) -> list[JsonObject]:
    if items is None or isinstance(items, str):
        return [{"role": role, "content": items}] if items else []
    return [_message(item, role) for item in items]


def _message(item: _Item, role: str) -> JsonObject:
    kind = item.get("type") or "message"
    if kind == "message":
        return {"role": item.get("role") or role, "content": _content(item.get("content"))}
    if kind.endswith("_output"):
        output = item.get("output")
        parts = [part for part in output if isinstance(part, dict)] if isinstance(output, list) else None
        return {"role": "tool", "content": output if isinstance(output, str) else _content(parts)}
    # What the model did: a call, reasoning, a search of the provider's own.
    return {"role": "assistant", "content": None}


def _content(content: str | list[Part] | list[JsonObject] | None) -> str | list[JsonObject] | None:
    if not isinstance(content, list):
        return content
    return [_part(dict(part)) for part in content]


def _part(part: JsonObject) -> JsonObject:
    text = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return {"type": "text", "text": text} if isinstance(text, str) else {"type": str(part.get("type") or "other")}


def _tools(request: _ResponsesRequest) -> tuple[list[JsonObject] | None, str | JsonObject | None]:
    """The tools, and which of them is to be called."""
    tools, choice = request.tools, request.tool_choice
    if isinstance(choice, _ToolChoice) and choice.type == "allowed_tools":
        allowed = {tool.name for tool in choice.tools}
        tools = [tool for tool in tools or () if tool.name in allowed]
        choice = choice.mode
    functions = None if tools is None else [_function(tool) for tool in tools]
    if isinstance(choice, _ToolChoice):
        named = {"function": {"name": choice.name}} if choice.type == "function" and choice.name else {}
        return functions, {"type": choice.type, **named}
    return functions, choice


def _function(tool: _Tool) -> JsonObject:
    if tool.type != "function":
        return {"type": tool.type}
    return {"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}}


def _response_format(text: _Text | None) -> JsonObject | None:
    if text is None or text.format is None:
        return None
    if text.format.type == "json_schema":
        return {"type": "json_schema", "json_schema": {"schema": text.format.value or {}}}
    return {"type": text.format.type}
