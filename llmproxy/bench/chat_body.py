"""The body of a Chat Completions request, from `llm`'s messages: the inverse of `reconstruct.chat_request`."""

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
    refuse_providers_own,
)
from llmproxy.parts import arguments_json

JsonObject = dict[str, Any]
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav"}


def chat_messages(messages: Sequence[Message]) -> list[JsonObject]:
    """The messages. Raises `Untranslatable`."""
    return [written for message in messages for written in _message(message)]


def chat_tools(tools: Sequence[Tool], extras: Mapping[str, Any]) -> list[JsonObject]:
    """The tools; `extras` are the fields beyond the usual ones, by name. Raises `Untranslatable`."""
    return [_tool(tool, extras.get(tool.name) or {}) for tool in tools]


def _tool(tool: Tool, extras: Mapping[str, Any]) -> JsonObject:
    described = {"description": tool.description} if tool.description is not None else {}
    if not is_providers_own(tool):
        parameters = {"parameters": tool.input_schema} if tool.input_schema else {}
        return {"type": "function", "function": {"name": tool.name, **described, **parameters, **extras}}
    rest = {key: value for key, value in tool.input_schema.items() if key != "type"}
    kind = tool.input_schema["type"]
    if kind == "custom":
        return {"type": kind, "custom": {"name": tool.name, **described, **rest}}
    return {"type": kind, **({} if kind == tool.name else {"name": tool.name}), **described, **rest}


def _message(message: Message) -> list[JsonObject]:
    own = metadata(message, "openai")
    if message.role == "tool":
        return [_result(part, own) for part in message.parts]
    role = own.get("role", message.role)
    written: JsonObject = {"role": role, **{key: value for key, value in own.items() if key != "role"}}
    content: list[JsonObject] = []
    for part in message.parts:
        _write(part, written, content, assistant=role == "assistant")
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        written["content"] = content[0]["text"]
    elif content:
        written["content"] = content
    else:
        # OpenAI: content is required unless there are tool calls; null is taken everywhere.
        written["content"] = None if role == "assistant" else ""
    return [written]


def _write(part: Part, written: JsonObject, content: list[JsonObject], *, assistant: bool) -> None:
    own = metadata(part, "openai")
    match part:
        case TextPart():
            if own.get("refusal") and assistant:
                written["refusal"] = part.text
            else:
                content.append({"type": "text", "text": part.text})
        case ReasoningPart():
            _reasoning(part, own, written, content)
        case ToolCallPart():
            refuse_providers_own(part)
            if own.get("type") == "function_call":
                written["function_call"] = {"name": part.name, "arguments": arguments_json(part)}
            else:
                written.setdefault("tool_calls", []).append(_call(part, own))
        case AttachmentPart() if own.get("audio_id"):
            written["audio"] = {"id": own["audio_id"]}
        case AttachmentPart():
            block = attachment_block(part)
            if assistant and block["type"] == "image_url":
                written.setdefault("images", []).append(block)
            else:
                content.append(block)
        case _:
            raise Untranslatable(f"a part of type {type(part).__name__} in a message of {written['role']}")


def _reasoning(part: ReasoningPart, own: JsonObject, written: JsonObject, content: list[JsonObject]) -> None:
    """Sent back where it came in Chat Completions; another API's is its own affair."""
    beside = {key: value for key, value in own.items() if key != "type"}
    if own.get("type") == "thinking":
        content.append({"type": "thinking", "thinking": [{"type": "text", "text": part.text}], **beside})
        return
    if own.get("type") == "reasoning":
        content.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": part.text, **beside}]})
        return
    if "field" in own:
        written[own["field"]] = part.text
    if "reasoning_details" in own:
        written["reasoning_details"] = own["reasoning_details"]


def _call(part: ToolCallPart, own: JsonObject) -> JsonObject:
    call: JsonObject = {"id": part.tool_call_id, "type": "function"}
    if own.get("type") == "custom_tool_call":
        call |= {"type": "custom", "custom": {"name": part.name, "input": part.arguments.get("input", "")}}
        return call | {key: value for key, value in own.items() if key != "type"}
    function = {"name": part.name, "arguments": arguments_json(part), **own.get("function", {})}
    # An item id of the Responses API means nothing here.
    extra = {key: value for key, value in own.items() if key in ("extra_content", "type")}
    return call | {"function": function} | extra


def _result(part: Part, own: JsonObject) -> JsonObject:
    if not isinstance(part, ToolResultPart):
        raise Untranslatable(f"a tool's answer that is no result ({metadata(part, 'openai').get('type', '?')})")
    refuse_providers_own(part)
    content: Any = part.output
    if part.attachments:
        texts = [{"type": "text", "text": part.output}] if part.output else []
        content = [*texts, *(attachment_block(AttachmentPart(attachment)) for attachment in part.attachments)]
    if own.get("role") == "function":
        return {"role": "function", "name": part.name, "content": content}
    return {**own, "role": "tool", "tool_call_id": part.tool_call_id, "content": content}


def attachment_block(part: AttachmentPart) -> JsonObject:
    """An image, a sound or a file as a content part. Raises `Untranslatable`."""
    own = metadata(part, "openai")
    attachment = part.attachment
    if attachment is None:
        if "file_id" in own:
            return {"type": "file", "file": own}
        if "type" in own:
            return own
        theirs = metadata(part, "anthropic")
        what = "a file that the provider holds" if "file_id" in theirs else f"a block of type {theirs.get('type', '?')}"
        raise Untranslatable(what)
    kind = kind_of(attachment)
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": data_url(attachment), **own}}
    if kind == "video":
        return {"type": "video_url", "video_url": {"url": data_url(attachment), **own}}
    if kind == "audio":
        subtype = (attachment.type or "").partition("/")[2]
        data = attachment.url or base64_of(attachment)
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO_FORMATS.get(subtype, subtype)}}
    if attachment.type == "text/plain" and "filename" not in own and attachment.content is not None:
        # Anthropic's plain text documents. Chat Completions takes files of text only by a name, and few servers do.
        title = metadata(part, "anthropic").get("title")
        text = attachment.content.decode("utf-8", "replace")
        return {"type": "text", "text": f"{title}\n\n{text}" if title else text}
    return {"type": "file", "file": {"file_data": data_url(attachment), **own}}
