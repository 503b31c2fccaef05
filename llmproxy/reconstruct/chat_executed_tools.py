"""Tools that the provider ran itself while it answered a chat completion: Groq's `executed_tools`."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Part, ToolResultPart

from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.json_values import Notes, namespaced, objects, string
from llmproxy.reconstruct.tool_output import result_json

_MAPPED = ("index", "type", "name", "arguments", "output")


class ExecutedToolDeltas:
    """The tools of a stream: each comes once when it is called, and again, under the same index, with its output."""

    def __init__(self) -> None:
        self._tools: dict[Any, dict[str, Any]] = {}

    def take(self, tools: list[dict[str, Any]]) -> bool:
        """Take a delta's `executed_tools`. Returns whether there are any."""
        for tool in tools:
            index = tool.get("index")
            known = self._tools.setdefault(index if type(index) is int else ("", len(self._tools)), {})
            known.update({key: value for key, value in tool.items() if value is not None or key not in known})
        return bool(tools)

    def body(self) -> list[dict[str, Any]]:
        """The tools as they would have come unstreamed."""
        return list(self._tools.values())


def executed_tool_parts(tools: Any, notes: Notes) -> list[Part]:
    """A call and a result for each tool. It has no id, and clients do not send it back."""
    return [part for tool in objects(tools, "executed_tools", notes) for part in _parts(tool, notes)]


def _parts(tool: Mapping[str, Any], notes: Notes) -> list[Part]:
    kind = string(tool.get("type"), "executed tool type", notes)
    name = string(tool.get("name"), "executed tool name", notes) or kind
    found = {key: value for key, value in tool.items() if key not in _MAPPED and value}
    parts: list[Part] = [
        call_part(
            name,
            tool.get("arguments"),
            None,
            notes,
            metadata=namespaced("openai", {"type": "executed_tool", "tool": kind if kind != name else None}),
            server_executed=True,
        )
    ]
    output = string(tool.get("output"), "executed tool output", notes) or (result_json(found) if found else "")
    if output:
        parts.append(ToolResultPart(name=name, output=output, server_executed=True))
    return parts
