"""A message of chat completions, of the request or of the response, as an `llm` message."""

from collections.abc import Iterable, Mapping
from typing import Any

from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolResultPart

from llmproxy.reconstruct import attachments
from llmproxy.reconstruct.arguments import call_part, custom_call_part
from llmproxy.reconstruct.chat_content import beside_text
from llmproxy.reconstruct.chat_executed_tools import executed_tool_parts
from llmproxy.reconstruct.chat_reasoning import REASONING_FIELDS, reasoning_parts
from llmproxy.reconstruct.json_values import Notes, dump, mapping, namespaced, objects, string, without_empty
from llmproxy.reconstruct.tool_output import read_output

# Fields whose meaning is in the parts, and fields of answers that say nothing to the model when they are sent back.
_MAPPED = frozenset(
    {
        *("role", "content", "refusal", "audio", "images", "tool_calls", "function_call", "tool_call_id"),
        *("reasoning", "reasoning_content", "reasoning_text", "reasoning_details"),
        *("annotations", "cache_control", "executed_tools", "id", "index", "logprobs", "provider_metadata", "status"),
        *("channel", "token_id"),
    }
)
# The order of an unstreamed message's parts. Its fields have none.
MESSAGE_FIELDS = (
    *("reasoning_content", "reasoning", "reasoning_text", "reasoning_details", "executed_tools"),
    *("content", "refusal", "audio", "images", "tool_calls", "function_call"),
)
_REASONING = (*REASONING_FIELDS, "reasoning_details")
_MEDIA_URLS: Mapping[str, attachments.Kind] = {
    "image_url": "image",
    "audio_url": "audio",
    "video_url": "video",
    "document_url": "file",
    "file_url": "file",
}


def read_message(
    given: Mapping[str, Any],
    notes: Notes,
    *,
    default_role: str = "user",
    fields: Iterable[str] = MESSAGE_FIELDS,
    call_names: Mapping[str, str] | None = None,
    audio_format: str = "",
) -> Message:
    """One message. `fields` is the order in which its fields appeared, where it was streamed.

    `call_names` are the names of the calls so far by id, since a tool's message names only the id. `audio_format` is
    the one that the request asked for.
    """
    role = string(given.get("role"), "role", notes) or default_role
    metadata = without_empty({k: v for k, v in given.items() if k not in _MAPPED and v is not False})
    if role in ("tool", "function"):
        if role == "function":
            metadata["role"] = role
        result = _tool_result(given, notes, call_names or {})
        metadata.pop("name", None)
        return Message("tool", [result], namespaced("openai", metadata))
    if role == "developer":
        role, metadata["role"] = "system", role
    parts: list[Part] = []
    is_reasoning_read = False
    for field in fields:
        if field in _REASONING:
            if not is_reasoning_read:
                parts += reasoning_parts(given, notes)
            is_reasoning_read = True
        elif given.get(field) is not None:
            parts += _parts_of_field(field, given.get(field), notes, audio_format)
    return Message(role, parts, namespaced("openai", metadata))


def _parts_of_field(field: str, value: Any, notes: Notes, audio_format: str) -> list[Part]:
    match field:
        case "content":
            return content_parts(value, notes)
        case "refusal":
            return _refusal(value, notes)
        case "audio":
            return _spoken(mapping(value, "audio", notes), notes, audio_format)
        case "images":
            return content_parts(value, notes)
        case "executed_tools":
            return executed_tool_parts(value, notes)
        case "tool_calls":
            calls = [value] if isinstance(value, dict) else objects(value, "tool_calls", notes)
            return [part for call in calls for part in _call(call, notes)]
        case "function_call":
            call = mapping(value, "function_call", notes)
            name = string(call.get("name"), "function name", notes)
            arguments = call.get("arguments")
            metadata = {"openai": {"type": "function_call"}}
            return [call_part(name, arguments, None, notes, metadata=metadata)] if name or arguments else []
        case _:
            return []


def content_parts(content: Any, notes: Notes) -> list[Part]:
    """The parts of a content: a string, a list of content parts, or nothing."""
    if content is None:
        return []
    if isinstance(content, dict) and "type" not in content:
        content = dump(content)  # Cloudflare gives structured output as the object itself
    if isinstance(content, str | dict):
        content = [content]
    if not isinstance(content, list):
        notes.add("content is neither a string nor an array")
        return []
    return [part for block in content for part in content_part(block, notes)]


def content_part(block: Any, notes: Notes) -> list[Part]:
    """One content part. Empty text is no part."""
    if isinstance(block, str):
        return [TextPart(block)] if block else []
    if not isinstance(block, dict):
        notes.add("content part is not an object")
        return []
    kind = block.get("type")
    match kind:
        case "text" | "input_text" | "output_text":
            text = string(block.get("text"), "text", notes)
            return [TextPart(text)] if text else []
        case "refusal":
            return _refusal(block.get("refusal"), notes)
        case "thinking":
            return _thinking(block, "thinking", notes)
        case "reasoning":
            return _thinking(block, "summary", notes)
        case "input_audio":
            audio = mapping(block.get(kind), kind, notes)
            audio_format = string(audio.get("format"), "audio format", notes)
            data = string(audio.get("data"), "audio data", notes)
            if data.startswith(("data:", "http:", "https:")):  # Alibaba takes URLs here
                return [attachments.from_url(data, "audio", notes)]
            return [attachments.from_base64(data, attachments.audio_type(audio_format), "audio", notes)]
        case "file":
            return [_file(mapping(block.get(kind), kind, notes), notes)]
        case str() if kind in _MEDIA_URLS:
            nested = block.get(kind)
            media = nested if isinstance(nested, dict) else {"url": nested}  # Mistral sends the bare URL
            url = string(media.get("url"), kind, notes)
            extra = {key: value for key, value in media.items() if key != "url"}
            return [attachments.from_url(url, _MEDIA_URLS[kind], notes, extra=extra)]
        case _:
            if kind != "reference":  # Mistral's, to what a tool found
                notes.add(f"unknown content part: {kind}")
            return [
                AttachmentPart(None, namespaced("openai", {k: v for k, v in block.items() if k != "cache_control"}))
            ]


def _refusal(refusal: Any, notes: Notes) -> list[Part]:
    text = string(refusal, "refusal", notes)
    return [TextPart(text, {"openai": {"refusal": True}})] if text else []


def _thinking(block: Mapping[str, Any], section: str, notes: Notes) -> list[Part]:
    """Reasoning that is a part of the content: Mistral's, and in another list Databricks'."""
    said = block.get(section)
    entries = objects(said, section, notes) if isinstance(said, list) else [{"text": said}]
    text = "".join(string(entry.get("text"), section, notes) for entry in entries)
    extra = {key: value for key, value in block.items() if key not in (section, "closed", "cache_control")}
    extra = without_empty({**extra, **beside_text(entries)})
    return [ReasoningPart(text, provider_metadata=namespaced("openai", extra))] if text or len(extra) > 1 else []


def _file(file: Mapping[str, Any], notes: Notes) -> AttachmentPart:
    extra = {key: value for key, value in file.items() if key not in ("file_data", "file_id")}
    data = string(file.get("file_data"), "file_data", notes)
    if data.startswith(("data:", "http:", "https:")):
        return attachments.from_url(data, "file", notes, extra=extra)
    if data:
        return attachments.from_base64(data, None, "file", notes, extra=extra)
    return attachments.from_file_id(string(file.get("file_id"), "file_id", notes), extra=extra)


def _spoken(audio: Mapping[str, Any], notes: Notes, audio_format: str) -> list[Part]:
    """What the model spoke: its transcript is the text. A client sends back only its id."""
    transcript = string(audio.get("transcript"), "transcript", notes)
    parts: list[Part] = [TextPart(transcript)] if transcript else []
    data = string(audio.get("data"), "audio data", notes)
    extra = {"audio_id": audio.get("id")}
    if data or any(without_empty(extra)):
        parts.append(attachments.from_base64(data, attachments.audio_type(audio_format), "audio", notes, extra=extra))
    return parts


def _call(call: Mapping[str, Any], notes: Notes) -> list[Part]:
    function = mapping(call.get("function"), "tool call function", notes)
    custom = mapping(call.get("custom"), "custom tool call", notes)
    call_id = string(call.get("id"), "tool call id", notes)
    name = string(function.get("name"), "tool call name", notes)
    mapped = ("id", "type", "index", "function", "custom", "cache_control")
    metadata = without_empty({key: value for key, value in call.items() if key not in mapped})
    if custom.get("name") and not name:
        text = string(custom.get("input"), "custom tool input", notes)
        return [custom_call_part(string(custom["name"], "tool call name", notes), text, call_id, metadata=metadata)]
    rest = without_empty({key: value for key, value in function.items() if key not in ("name", "arguments")})
    if rest:
        metadata["function"] = rest
    if call.get("type") not in (None, "", "function"):
        metadata["type"] = call["type"]
    return [call_part(name, function.get("arguments"), call_id, notes, metadata=namespaced("openai", metadata))]


def _tool_result(given: Mapping[str, Any], notes: Notes, call_names: Mapping[str, str]) -> ToolResultPart:
    call_id = string(given.get("tool_call_id"), "tool_call_id", notes)
    output, media = read_output(given.get("content"), lambda block: content_part(block, notes))
    name = call_names.get(call_id) or string(given.get("name"), "name", notes)
    return ToolResultPart(name=name, output=output, tool_call_id=call_id or None, attachments=media)
