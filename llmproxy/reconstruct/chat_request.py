"""The request of chat completions."""

from collections.abc import Iterator, Mapping
from typing import Any

from llm.parts import Message, ToolCallPart

from llmproxy.reconstruct.chat_message import read_message
from llmproxy.reconstruct.json_values import Notes, objects
from llmproxy.reconstruct.machine import RequestReading
from llmproxy.reconstruct.tool_definitions import read_tools, with_extras

_MAPPED = frozenset({"model", "messages", "tools", "functions", "stream", "cache_control"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, understood. Odd fields are skipped and noted."""
    notes = Notes()
    model = body.get("model")
    schema, options = _schema({k: v for k, v in body.items() if k not in _MAPPED and v is not None})
    tools, extras = read_tools(
        list(_tool_definitions(body, notes)), schema_key="parameters", function_type="function", notes=notes
    )
    return RequestReading(
        model=model if isinstance(model, str) else None,
        input=tuple(_messages(body.get("messages"), notes)),
        tools=tools,
        schema=schema,
        options=with_extras(options, extras),
        notes=tuple(notes),
    )


def _messages(given: Any, notes: Notes) -> Iterator[Message]:
    call_names: dict[str, str] = {}
    for entry in objects(given, "messages", notes):
        message = read_message(entry, notes, call_names=call_names)
        for part in message.parts:
            if isinstance(part, ToolCallPart) and part.tool_call_id:
                call_names[part.tool_call_id] = part.name
        yield message


def _tool_definitions(body: Mapping[str, Any], notes: Notes) -> Iterator[dict[str, Any]]:
    """Tools, and functions as they were called before, with name and schema at the top as the other APIs have them."""
    for definition in objects(body.get("tools"), "tools", notes):
        kind = definition.get("type")
        nested = definition.get("custom" if kind == "custom" else "function")
        if isinstance(nested, dict):  # also where Moonshot's `type` says that the provider runs the function
            beside = {key: value for key, value in definition.items() if key not in ("function", "custom")}
            yield {**beside, **nested}
        else:
            yield definition
    yield from objects(body.get("functions"), "functions", notes)


def _schema(options: dict[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    """The JSON schema that the answer is to follow, and the options without it."""
    response_format = options.get("response_format")
    if not isinstance(response_format, dict):
        return None, options
    named = response_format.get("json_schema")
    if isinstance(named, dict) and isinstance(named.get("schema"), dict):
        rest = {key: value for key, value in named.items() if key != "schema"}
        return named["schema"], {**options, "response_format": {**response_format, "json_schema": rest}}
    if isinstance(response_format.get("schema"), dict):  # llama.cpp, Together
        rest = {key: value for key, value in response_format.items() if key != "schema"}
        return response_format["schema"], {**options, "response_format": rest}
    return None, options
