"""The body of a Messages request, from `llm`'s messages: the inverse of `reconstruct.anthropic_request`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llm import Tool
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.bench.content import (
    Untranslatable,
    base64_of,
    is_providers_own,
    kind_of,
    metadata,
    providers_own_tool,
    refuse_providers_own,
)
from llmproxy.parts import unparsed_arguments

JsonObject = dict[str, Any]


def messages_body(messages: Sequence[Message], *, own: bool) -> JsonObject:
    """`system` and `messages`. `own`: they were captured in this API. Raises `Untranslatable`."""
    leading = 0
    while leading < len(messages) and messages[leading].role == "system":
        leading += 1
    system = [block for message in messages[:leading] for block in _blocks(message.parts)]
    written: list[JsonObject] = []
    for message in messages[leading:]:
        role = "user" if message.role == "tool" else message.role
        if role == "system" and not own:
            raise Untranslatable("a system message in the middle of the conversation")
        blocks = _blocks(message.parts)
        # Results of tools come first in the user message after the calls (Anthropic, tool use).
        if written and role == "user" and written[-1]["role"] == "user":
            written[-1]["content"] += blocks
        else:
            written.append({"role": role, "content": blocks})
    for entry in written:
        if len(entry["content"]) == 1 and entry["content"][0].keys() == {"type", "text"}:
            entry["content"] = entry["content"][0]["text"]
    if not own and not written:
        raise Untranslatable("no message beside the system's")
    plain = len(system) == 1 and system[0].keys() == {"type", "text"}
    return {**({"system": system[0]["text"] if plain else system} if system else {}), "messages": written}


def messages_tools(tools: Sequence[Tool], extras: Mapping[str, Any], *, own: bool) -> list[JsonObject]:
    """The tools. Raises `Untranslatable`."""
    return [_tool(tool, (extras.get(tool.name) or {}) if own else {}) for tool in tools]


def _tool(tool: Tool, extras: Mapping[str, Any]) -> JsonObject:
    if is_providers_own(tool):
        return providers_own_tool(tool)
    described = {"description": tool.description} if tool.description is not None else {}
    schema = dict(tool.input_schema or {})
    return {"name": tool.name, **described, "input_schema": schema or {"type": "object"}, **extras}


def _blocks(parts: Sequence[Part]) -> list[JsonObject]:
    return [block for part in parts for block in _block(part)]


def _block(part: Part) -> list[JsonObject]:
    own = metadata(part, "anthropic")
    match part:
        case TextPart() if own.get("type") == "search_result":
            return [{**own, "content": [{"type": "text", "text": part.text}]}]
        case TextPart():
            return [{"type": "text", "text": part.text, **own}]
        case ReasoningPart() if own.get("type") == "redacted_thinking":
            return [own]
        case ReasoningPart():
            # Without its signature it would be refused; and it is another API's.
            return [{"type": "thinking", "thinking": part.text, **own}] if "signature" in own else []
        case ToolCallPart():
            return [_call(part, own)]
        case ToolResultPart() if part.server_executed:
            return [_server_result(part, own)]
        case ToolResultPart():
            content: Any = part.output
            if part.attachments:
                texts = [{"type": "text", "text": part.output}] if part.output else []
                content = [*texts, *(_media(AttachmentPart(attachment)) for attachment in part.attachments)]
            return [{"type": "tool_result", "tool_use_id": part.tool_call_id, "content": content, **own}]
        case AttachmentPart():
            return [_media(part)]
    raise Untranslatable(f"a part of type {type(part).__name__}")


def _call(part: ToolCallPart, own: JsonObject) -> JsonObject:
    if part.server_executed and metadata(part, "openai"):
        refuse_providers_own(part)
    server = own.get("mcp_server_name")
    kind = "mcp_tool_use" if server else "server_tool_use" if part.server_executed else "tool_use"
    if unparsed_arguments(part) is not None:
        raise Untranslatable(f"a call of {part.name} whose arguments are no JSON object")
    extra = {"server_name": server} if server else {}
    extra |= {key: own[key] for key in ("caller", "toolset_name") if key in own}
    return {"type": kind, "id": part.tool_call_id, "name": part.name, "input": part.arguments, **extra}


def _server_result(part: ToolResultPart, own: JsonObject) -> JsonObject:
    if metadata(part, "openai"):
        refuse_providers_own(part)
    try:
        content = json.loads(part.output)
    except ValueError:
        content = part.output
    return {"type": f"{part.name}_tool_result", "tool_use_id": part.tool_call_id, "content": content, **own}


def _media(part: AttachmentPart) -> JsonObject:
    own = metadata(part, "anthropic")
    attachment = part.attachment
    if attachment is None:
        if "file_id" in own and own.get("type") != "container_upload":
            rest = {key: value for key, value in own.items() if key not in ("file_id", "type")}
            return {"type": own.get("type", "document"), "source": {"type": "file", "file_id": own["file_id"]}, **rest}
        if "type" in own:
            return own
        theirs = metadata(part, "openai")
        raise Untranslatable(
            "a file that the provider holds" if "file_id" in theirs else f"a part of type {theirs.get('type', '?')}"
        )
    kind = kind_of(attachment)
    if kind in ("audio", "video"):
        raise Untranslatable(f"{kind} in a message")
    block = "image" if kind == "image" else "document"
    title = {"title": name} if (name := metadata(part, "openai").get("filename")) and block == "document" else {}
    if attachment.url:
        return {"type": block, "source": {"type": "url", "url": attachment.url}, **title, **own}
    if attachment.type == "text/plain" and attachment.content is not None:
        text = attachment.content.decode("utf-8", "replace")
        return {"type": block, "source": {"type": "text", "media_type": "text/plain", "data": text}, **title, **own}
    source = {"type": "base64", "media_type": attachment.type, "data": base64_of(attachment)}
    return {"type": block, "source": source, **title, **own}
