"""Tool calls: the arguments as a value where they are one, and never lost where they are not."""

from typing import Any

from llm.parts import ToolCallPart

from llmproxy.reconstruct.json_values import Notes, dump
from llmproxy.reconstruct.text import parse_object


def call_part(
    name: str,
    arguments: Any,
    call_id: str | None,
    notes: Notes,
    *,
    metadata: dict[str, Any] | None = None,
    server_executed: bool = False,
) -> ToolCallPart:
    """A tool call as `llm` has it, its arguments parsed.

    `arguments` is what the wire says: JSON text, or an object already. Nothing ("" or null) is no arguments. What is
    not a JSON object (text that was cut, a list) is kept as text in ``provider_metadata["llmproxy"]["arguments"]``.
    """
    parsed, unparsed = _parsed(arguments, notes)
    if unparsed is not None:
        metadata = {**(metadata or {}), "llmproxy": {"arguments": unparsed}}
    return ToolCallPart(
        name=name,
        arguments=parsed,
        tool_call_id=call_id or None,
        server_executed=server_executed,
        provider_metadata=metadata or None,
    )


def custom_call_part(
    name: str, text: str, call_id: str | None, *, metadata: dict[str, Any] | None = None
) -> ToolCallPart:
    """A call of a custom tool, whose input is free text. `metadata` is the rest of its "openai" metadata."""
    return ToolCallPart(
        name=name,
        arguments={"input": text},
        tool_call_id=call_id or None,
        provider_metadata={"openai": {"type": "custom_tool_call", **(metadata or {})}},
    )


def _parsed(arguments: Any, notes: Notes) -> tuple[dict[str, Any], str | None]:
    if arguments is None or arguments == "":
        return {}, None
    if isinstance(arguments, dict):
        return arguments, None
    if not isinstance(arguments, str):
        return {}, dump(arguments)
    parsed = parse_object(arguments, notes)
    return ({}, arguments) if parsed is None else (parsed, None)
