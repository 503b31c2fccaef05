"""The body of a Responses request, from `llm`'s messages: the inverse of `reconstruct.responses_request`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llm import Tool
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.bench.content import (
    Untranslatable,
    base64_of,
    data_url,
    is_providers_own,
    kind_of,
    metadata,
    providers_own_tool,
    refuse_providers_own,
)
from llmproxy.parts import arguments_json

JsonObject = dict[str, Any]
# The field that holds what a call other than of a function is called with.
_CALL_FIELDS = {"apply_patch_call": "operation", "tool_search_call": "arguments"}
_ITEMS = ("compaction", "item_reference", "additional_tools")


def responses_input(messages: Sequence[Message]) -> list[JsonObject]:
    """`input`: the items. Raises `Untranslatable`."""
    return [item for message in messages for item in _items(message)]


def responses_tools(tools: Sequence[Tool], extras: Mapping[str, Any]) -> list[JsonObject]:
    """The tools. Raises `Untranslatable`."""
    return [_tool(tool, extras.get(tool.name) or {}) for tool in tools]


def _tool(tool: Tool, extras: Mapping[str, Any]) -> JsonObject:
    if is_providers_own(tool):
        return providers_own_tool(tool)
    described = {"description": tool.description} if tool.description is not None else {}
    schema = dict(tool.input_schema or {})
    parameters = {"parameters": schema} if schema else {}
    return {"type": "function", "name": tool.name, **described, **parameters, **extras}


def _items(message: Message) -> list[JsonObject]:
    own = metadata(message, "openai")
    role = own.get("role", message.role)
    items: list[JsonObject] = []
    for part in message.parts:
        if isinstance(part, TextPart | AttachmentPart) and not _is_item(part):
            block, extra = _content(part, assistant=role == "assistant")
            extra = {**{key: value for key, value in own.items() if key != "role"}, **extra}
            last = items[-1] if items else {}
            if last.get("type") == "message" and {k: v for k, v in last.items() if k in ("name", "phase")} == extra:
                last["content"].append(block)
            else:
                items.append({"type": "message", "role": role, "content": [block], **extra})
        else:
            items.append(_item(part))
    if not items and message.role != "tool":
        items.append({"type": "message", "role": role, "content": []})
    return items


def _is_item(part: Part) -> bool:
    kind = str(metadata(part, "openai").get("type", ""))
    return isinstance(part, AttachmentPart) and part.attachment is None and not kind.startswith("input_") and bool(kind)


def _content(part: TextPart | AttachmentPart, *, assistant: bool) -> tuple[JsonObject, JsonObject]:
    """A content part, and what of its metadata belongs to the message."""
    own = metadata(part, "openai")
    if isinstance(part, AttachmentPart):
        return _media(part), {}
    extra: JsonObject = {key: own[key] for key in ("name", "phase") if key in own}
    if own.get("refusal") and assistant:
        return {"type": "refusal", "refusal": part.text}, extra
    return {"type": "output_text" if assistant else "input_text", "text": part.text}, extra


def _item(part: Part) -> JsonObject:
    own = metadata(part, "openai")
    match part:
        case AttachmentPart():
            return own
        case ReasoningPart():
            content = [{"type": "reasoning_text", "text": part.text}] if part.text and "summary" not in own else None
            return {"type": "reasoning", "summary": [], **({"content": content} if content else {}), **own}
        case ToolCallPart():
            refuse_providers_own(part)
            return _call(part, own)
        case ToolResultPart():
            refuse_providers_own(part)
            return _result(part, own)
    raise Untranslatable(f"a part of type {type(part).__name__}")


def _call(part: ToolCallPart, own: JsonObject) -> JsonObject:
    kind = own.get("type", "function_call")
    rest = {key: value for key, value in own.items() if key not in ("type", "extra_content", "function")}
    if kind == "custom_tool_call":
        text = part.arguments.get("input", "")
        return {"type": kind, "call_id": part.tool_call_id, "name": part.name, "input": text, **rest}
    if kind == "computer_call" and "actions" in part.arguments:
        return {"type": kind, "call_id": part.tool_call_id, **part.arguments, **rest}
    if kind.endswith("_call") and kind != "function_call":
        return {"type": kind, "call_id": part.tool_call_id, _CALL_FIELDS.get(kind, "action"): part.arguments, **rest}
    arguments = arguments_json(part)
    return {"type": "function_call", "call_id": part.tool_call_id, "name": part.name, "arguments": arguments, **rest}


def _result(part: ToolResultPart, own: JsonObject) -> JsonObject:
    kind = own.get("type", "function_call_output")
    output: Any = part.output
    field = "output"
    if kind == "tool_search_output":
        field, output = "tools", json.loads(part.output or "[]")
    elif part.attachments:
        texts = [{"type": "input_text", "text": part.output}] if part.output else []
        output = [*texts, *(_media(AttachmentPart(attachment)) for attachment in part.attachments)]
    rest = {key: value for key, value in own.items() if key != "type"}
    return {"type": kind, "call_id": part.tool_call_id, field: output, **rest}


def _media(part: AttachmentPart) -> JsonObject:
    own = metadata(part, "openai")
    attachment = part.attachment
    if attachment is None:
        if "file_id" in own:
            return {"type": "input_image" if "detail" in own and "filename" not in own else "input_file", **own}
        if "type" in own:
            return own
        raise Untranslatable("a file that the provider holds")
    kind = kind_of(attachment)
    if kind == "image":
        return {"type": "input_image", "image_url": data_url(attachment), **own}
    if kind == "audio":
        subtype = (attachment.type or "").partition("/")[2]
        audio = {"data": base64_of(attachment), "format": "mp3" if subtype == "mpeg" else subtype}
        return {"type": "input_audio", "input_audio": audio}
    if kind == "video":
        raise Untranslatable("video in a message")
    if attachment.url:
        return {"type": "input_file", "file_url": attachment.url, **own}
    return {"type": "input_file", "file_data": data_url(attachment), **own}
