"""The content of a message of the Responses API: text, refusals, images, files, audio."""

from typing import Any

from llm.parts import AttachmentPart, Part, TextPart

from llmproxy.reconstruct import attachments
from llmproxy.reconstruct.json_values import Notes, namespaced, sequence, string, without_empty


def content_parts(content: Any, notes: Notes) -> list[Part]:
    """The parts of a message's content: a string, a list of content parts, or nothing."""
    if isinstance(content, str):
        return [TextPart(content)] if content else []
    return [part for block in sequence(content, "content", notes) for part in content_part(block, notes)]


def content_part(block: Any, notes: Notes) -> list[Part]:
    """One content part. Empty text is no part."""
    if isinstance(block, str):
        return [TextPart(block)] if block else []
    if not isinstance(block, dict):
        notes.add("content part is not an object")
        return []
    match block.get("type"):
        case "input_text" | "output_text" | "text":
            text = string(block.get("text"), "text", notes)
            return [TextPart(text)] if text else []
        case "refusal":
            text = string(block.get("refusal"), "refusal", notes)
            return [TextPart(text, {"openai": {"refusal": True}})] if text else []
        case "input_image" | "computer_screenshot" | "image_url":
            return [_image(block, notes)]
        case "input_file":
            return [_file(block, notes)]
        case "input_audio" | "output_audio":
            return _audio(block, notes)
        case unknown:
            notes.add(f"unknown content part: {unknown}")
            return [AttachmentPart(None, namespaced("openai", block))]


def _image(block: dict[str, Any], notes: Notes) -> AttachmentPart:
    url = block.get("image_url")
    if isinstance(url, dict):  # as in chat completions; some servers take both
        block, url = {**block, **url}, url.get("url")
    extra = without_empty({"detail": block.get("detail")})
    file_id = string(block.get("file_id"), "file_id", notes)
    if file_id and not url:
        return attachments.from_file_id(file_id, extra=extra)
    return attachments.from_url(string(url, "image_url", notes), "image", notes, extra=extra)


def _file(block: dict[str, Any], notes: Notes) -> AttachmentPart:
    extra = without_empty({"filename": block.get("filename"), "detail": block.get("detail")})
    data = string(block.get("file_data"), "file_data", notes)
    if data[:5].lower() == "data:":
        return attachments.from_url(data, "file", notes, extra=extra)
    if data:
        return attachments.from_base64(data, None, "file", notes, extra=extra)
    file_id = string(block.get("file_id"), "file_id", notes)
    if file_id:
        return attachments.from_file_id(file_id, extra=extra)
    return attachments.from_url(string(block.get("file_url"), "file_url", notes), "file", notes, extra=extra)


def _audio(block: dict[str, Any], notes: Notes) -> list[Part]:
    nested = block.get("input_audio")
    audio = nested if isinstance(nested, dict) else block
    parts: list[Part] = []
    transcript = string(block.get("transcript"), "transcript", notes)
    if transcript:
        parts.append(TextPart(transcript))
    data = string(audio.get("data"), "audio data", notes)
    if data:
        audio_format = string(audio.get("format"), "audio format", notes)
        parts.append(attachments.from_base64(data, attachments.audio_type(audio_format), "audio", notes))
    return parts
