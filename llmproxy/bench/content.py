"""What the writers of the three APIs share: `llm`'s messages taken apart."""

import base64
from typing import Any

from llm import Attachment, Tool
from llm.parts import Message, Part

# Types of JSON Schema (2020-12, section 4.2.1). A tool of another type is the provider's own.
_SCHEMA_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))


class Untranslatable(ValueError):
    """What was captured cannot be said in the target's API; the message is the reason, for the user."""


def metadata(part: Part | Message, provider: str) -> dict[str, Any]:
    """What only this provider understands of a part."""
    found = (getattr(part, "provider_metadata", None) or {}).get(provider)
    return found if isinstance(found, dict) else {}


def data_url(attachment: Attachment) -> str:
    """The attachment's URL, or its bytes as a `data:` URL (RFC 2397)."""
    if attachment.url:
        return str(attachment.url)
    return f"data:{attachment.type or 'application/octet-stream'};base64,{base64_of(attachment)}"


def base64_of(attachment: Attachment) -> str:
    """The attachment's bytes. Raises `Untranslatable` where they are in a file that is gone."""
    if attachment.content is None and attachment.path is None:
        raise Untranslatable("an attachment without content")
    try:
        return base64.b64encode(attachment.content_bytes()).decode()
    except OSError as exc:
        raise Untranslatable(f"the attachment {attachment.path} cannot be read") from exc


def kind_of(attachment: Attachment) -> str:
    """The first half of its media type: image, audio, video, text, application."""
    return (attachment.type or "application").partition("/")[0]


def is_providers_own(tool: Tool) -> bool:
    """Whether the provider runs the tool, or it is one whose input is no JSON."""
    kind = (tool.input_schema or {}).get("type")
    return isinstance(kind, str) and kind not in _SCHEMA_TYPES


def providers_own_tool(tool: Tool) -> dict[str, Any]:
    """Such a tool as the Responses and the Messages API take it: its fields beside its name."""
    schema = tool.input_schema
    name = {} if schema["type"] == tool.name else {"name": tool.name}
    described = {"description": tool.description} if tool.description is not None else {}
    return {"type": schema["type"], **name, **described, **schema}


def refuse_providers_own(part: Any) -> None:
    """Raise `Untranslatable` for what the provider's own tool did."""
    if part.server_executed:
        raise Untranslatable(f"the provider's own tool {part.name or '?'} has run in it")
