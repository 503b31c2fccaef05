"""The request of the Responses API."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message, TextPart

from llmproxy.reconstruct.item_content import content_parts
from llmproxy.reconstruct.items import last_answer_id, read_items
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.machine import RequestReading
from llmproxy.reconstruct.tool_definitions import read_tools, with_extras

_MAPPED = frozenset({"model", "input", "instructions", "tools", "stream", "previous_response_id", "conversation"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, understood. Odd fields are skipped and noted."""
    notes = Notes()
    model = body.get("model")
    schema, options = _schema({k: v for k, v in body.items() if k not in _MAPPED and v is not None})
    tools, extras = read_tools(body.get("tools"), schema_key="parameters", function_type="function", notes=notes)
    instructions = _instructions(body.get("instructions"), notes)
    return RequestReading(
        model=model if isinstance(model, str) else None,
        input=(*instructions, *_input(body.get("input"), notes)),
        tools=tools,
        schema=schema,
        options=with_extras(options, extras),
        previous_response_id=_identifier(body.get("previous_response_id")),
        conversation=_identifier(body.get("conversation")),
        echoed_item=last_answer_id(body.get("input")),
        instructions=len(instructions),
        notes=tuple(notes),
    )


def _instructions(instructions: Any, notes: Notes) -> tuple[Message, ...]:
    if isinstance(instructions, list):  # a stored prompt's, as items
        return read_items(instructions, notes, default_role="system")
    parts = content_parts(instructions, notes)
    return (Message("system", parts),) if parts else ()


def _input(given: Any, notes: Notes) -> tuple[Message, ...]:
    if isinstance(given, str):
        return (Message("user", [TextPart(given)] if given else []),)
    if isinstance(given, dict):
        given = [given]
    if given is None:  # allowed beside `prompt`
        return ()
    if not isinstance(given, list):
        notes.add("input is neither a string nor an array")
        return ()
    return read_items(given, notes, default_role="user")


def _schema(options: dict[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """The JSON schema that the answer is to follow, and the options without it."""
    text = options.get("text")
    text_format = text.get("format") if isinstance(text, dict) else None
    if not isinstance(text, dict) or not isinstance(text_format, dict) or text_format.get("type") != "json_schema":
        return None, options
    schema = text_format.get("schema")
    if not isinstance(schema, dict):
        return None, options
    rest = {key: value for key, value in text_format.items() if key != "schema" and value is not None}
    return schema, {**options, "text": {**text, "format": rest}}


def _identifier(value: Any) -> str | None:
    """A conversation is given by its id or as an object with an id."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) and value else None
