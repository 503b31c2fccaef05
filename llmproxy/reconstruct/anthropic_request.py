"""The request of the Messages API."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message, ToolResultPart

from llmproxy.reconstruct.anthropic_blocks import Blocks
from llmproxy.reconstruct.json_values import Notes, objects, string
from llmproxy.reconstruct.machine import RequestReading
from llmproxy.reconstruct.tool_definitions import read_tools, with_extras

# cache_control moves from call to call and says nothing about the conversation.
_MAPPED = frozenset({"model", "messages", "system", "tools", "stream", "cache_control"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, understood. Odd fields are skipped and noted."""
    notes = Notes()
    model = body.get("model")
    schema, options = _schema({k: v for k, v in body.items() if k not in _MAPPED and v is not None})
    tools, extras = read_tools(body.get("tools"), schema_key="input_schema", function_type="custom", notes=notes)
    return RequestReading(
        model=model if isinstance(model, str) else None,
        input=_messages(body, notes),
        tools=tools,
        schema=schema,
        options=with_extras(options, extras),
        previous_response_id=_continued(body.get("thread")),
        notes=tuple(notes),
    )


def _continued(thread: Any) -> str | None:
    """The response that a message thread goes on from: the request then holds only what is new, without the system
    prompt and the tools (https://platform.claude.com/docs/en/build-with-claude/message-threads)."""
    if not isinstance(thread, dict) or thread.get("type") != "continue":
        return None
    pointed_at = thread.get("previous_message_id")
    return pointed_at if isinstance(pointed_at, str) and pointed_at else None


def _messages(body: Mapping[str, Any], notes: Notes) -> tuple[Message, ...]:
    blocks = Blocks(notes)
    system = blocks.parts(body.get("system"))
    messages = [Message("system", system)] if system else []
    for given in objects(body.get("messages"), "messages", notes):
        role = string(given.get("role"), "role", notes) or "user"
        parts = blocks.parts(given.get("content"))
        results = [part for part in parts if _is_client_result(part)] if role == "user" else []
        if results:
            messages.append(Message("tool", results))
            parts = [part for part in parts if not _is_client_result(part)]
            if not parts:
                continue
        messages.append(Message(role, parts))
    return tuple(messages)


def _is_client_result(part: object) -> bool:
    return isinstance(part, ToolResultPart) and not part.server_executed


def _schema(options: dict[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """The JSON schema that the answer is to follow, and the options without it."""
    config = options.get("output_config")
    if isinstance(config, dict):
        schema, rest = _format_schema(config.get("format"))
        if schema is not None:
            return schema, {**options, "output_config": {**config, "format": rest}}
    schema, rest = _format_schema(options.get("output_format"))  # its name while it was in beta
    return (None, options) if schema is None else (schema, {**options, "output_format": rest})


def _format_schema(output_format: Any) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    if not isinstance(output_format, dict) or not isinstance(output_format.get("schema"), dict):
        return None, {}
    return output_format["schema"], {key: value for key, value in output_format.items() if key != "schema"}
