"""What the mock provider answers: pure functions of the request, so that tests can predict it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class BadRequest(ValueError):
    """The request makes no sense; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ScriptedToolCall(BaseModel):
    """A tool call to answer with. `arguments`: an object, or a string to send as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str | None = None


class Script(BaseModel):
    """What a request tells the mock to do: the object under `"mock"` in the body, `x-mock-*` header fields, or a last
    user message that begins with `/mock {…}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str | None = None
    chunks: list[str] | None = None  # the answer, cut just so
    reasoning: str | None = None
    tool_calls: list[ScriptedToolCall] | None = None
    finish_reason: str | None = None
    chunk_delay: float | None = Field(default=None, ge=0)  # seconds before each chunk
    first_delay: float = Field(default=0, ge=0)  # seconds before the response
    status: int | None = Field(default=None, ge=400, le=599)
    error: str | None = None
    retry_after: int | None = None
    cut_after: int | None = Field(default=None, ge=0)  # break the connection after so many chunks
    error_after: int | None = Field(default=None, ge=0)  # an error event after so many chunks
    garbage: bool = False  # a body that is not JSON
    echo_headers: bool = False  # answer with the request's header fields, as JSON


def script_of(request: Mapping[str, Any], headers: Sequence[tuple[bytes, bytes]]) -> Script:
    """The script of a request: header fields over the body, the body over the message. Raises `BadRequest`."""
    told: dict[str, Any] = {}
    messages = request.get("messages")
    text = last_user_text(messages) if isinstance(messages, list) else ""
    if text.startswith("/mock "):
        try:
            told, _ = json.JSONDecoder().raw_decode(text.removeprefix("/mock ").lstrip())
        except ValueError as exc:
            raise BadRequest(f"/mock is followed by a JSON object: {exc}", "messages") from None
    for source in (told, request.get("mock") or {}):
        if not isinstance(source, dict):
            raise BadRequest('mock is an object, such as {"answer": "hi"}', "mock")
    told = {**told, **(request.get("mock") or {})}
    for name, value in headers:
        if name.startswith(b"x-mock-"):
            told[name.removeprefix(b"x-mock-").decode().replace("-", "_")] = _loads(value.decode("latin-1"))
    try:
        return Script.model_validate(told)
    except ValidationError as exc:
        mistake = exc.errors()[0]
        place = ".".join(("mock", *map(str, mistake["loc"])))
        raise BadRequest(f"{place}: {mistake['msg']}; there is: {', '.join(Script.model_fields)}", place) from None


def answer_for(messages: Sequence[Mapping[str, Any]]) -> str:
    """The answer to a conversation.

    After a tool's result: `The tool said: RESULT`. Else: `You said: TEXT`, where TEXT is the last user message, and
    from the second user message on `(message N)` behind it.
    """
    if messages and messages[-1].get("role") in ("tool", "function"):
        return f"The tool said: {text_of(messages[-1])}"
    count = sum(message.get("role") == "user" for message in messages)
    suffix = f" (message {count})" if count > 1 else ""
    return f"You said: {last_user_text(messages)}{suffix}"


def tool_call_for(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call that a request asks for: of a required or named tool, or of one whose name the user wrote."""
    tools = [tool.get("function") or {} for tool in request.get("tools") or [] if isinstance(tool, dict)]
    choice = request.get("tool_choice")
    messages = request.get("messages") or []
    if not tools or choice == "none" or (messages and messages[-1].get("role") in ("tool", "function")):
        return None
    named = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    text = last_user_text(messages)
    for tool in tools:
        name = str(tool.get("name") or "")
        if choice == "required" or name == named or (named is None and name and name in text):
            return {"name": name, "arguments": json.dumps(example_of(tool.get("parameters") or {}))}
    return None


def example_of(schema: Any) -> Any:
    """A value that fits a JSON schema, the simplest there is."""
    if not isinstance(schema, dict):
        return "text"
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        return {name: example_of(value) for name, value in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [example_of(schema.get("items"))]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "text")


def cut_to(answer: str, request: Mapping[str, Any]) -> tuple[str, str]:
    """The answer as `stop` and `max_tokens` leave it, and the finish reason."""
    stops = request.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        if isinstance(stop, str) and stop and stop in answer:
            answer = answer.partition(stop)[0]
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    if isinstance(limit, int) and tokens(answer) > limit:
        return answer[: limit * 4], "length"
    return answer, "stop"


def words(answer: str) -> list[str]:
    """The answer in chunks of a word each; joined they are the answer."""
    return re.findall(r"\s*\S+|\s+$", answer)


def tokens(text: str) -> int:
    """How many tokens a text costs here: one for each 4 characters begun."""
    return math.ceil(len(text) / 4)


def prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many tokens the messages cost."""
    return sum(tokens(text_of(message)) for message in messages)


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message, "" where there is none."""
    users = (message for message in reversed(messages) if isinstance(message, dict) and message.get("role") == "user")
    return next(map(text_of, users), "")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
