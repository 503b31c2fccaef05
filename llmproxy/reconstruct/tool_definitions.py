"""The tools that a request offers to the model, as `llm` has them."""

from collections.abc import Mapping
from typing import Any

from llm import Tool

from llmproxy.reconstruct.json_values import Notes, mapping, objects, without_empty


def read_tools(
    definitions: Any, *, schema_key: str, function_type: str, notes: Notes
) -> tuple[tuple[Tool, ...], dict[str, Any]]:
    """Tools whose name, description and schema stand side by side (Responses, Messages).

    `function_type` is what `type` says, if anything, of a tool that the client runs. Its fields beyond those three are
    given as the second value, by the tool's name. A tool that the provider runs has its settings as its schema.
    """
    tools: list[Tool] = []
    extras: dict[str, Any] = {}
    for definition in objects(definitions, "tools", notes):
        kind = definition.get("type")
        name = definition.get("name") or kind
        if not isinstance(name, str):
            notes.add("tool has no name")
            continue
        description = definition.get("description")
        description = description if isinstance(description, str) else None
        rest = without_empty({k: v for k, v in definition.items() if k not in _mapped(schema_key)})
        if kind is None or kind == function_type:
            schema = dict(mapping(definition.get(schema_key), "tool schema", notes))
            rest.pop("type", None)
            if rest:
                extras[name] = rest
        else:
            if definition.get(schema_key):
                rest[schema_key] = definition[schema_key]
            schema = rest
        tools.append(Tool(name=name, description=description, input_schema=schema))
    return tuple(tools), extras


def with_extras(options: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with what tool definitions said beyond name, description and schema."""
    return {**options, "tools": dict(extras)} if extras else dict(options)


def _mapped(schema_key: str) -> tuple[str, ...]:
    # cache_control moves from call to call and says nothing about the tool.
    return ("name", "description", schema_key, "cache_control")
