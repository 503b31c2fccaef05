"""The content blocks of the Messages API, as parts: the same reading for what is sent and for what comes back.

Shapes are those of the `llm-anthropic` plugin, so that it can continue the conversation: an opaque block is a reasoning
part of metadata only, a server tool's result is named by its block's type.
"""

from collections.abc import Mapping
from typing import Any

from llm import Attachment
from llm.parts import AttachmentPart, Part, ReasoningPart, TextPart, ToolResultPart

from llmproxy.reconstruct import attachments
from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.json_values import Notes, mapping, namespaced, nonempty, sequence, string
from llmproxy.reconstruct.tool_output import read_output, result_json

_RESULT = "_tool_result"
# What says nothing, yet has to be sent back. A compaction is a summary that the model wrote for itself.
_OPAQUE = ("container_upload", "compaction", "fallback", "mcp_tool_listing", "tool_addition", "tool_removal")


class Blocks:
    """Reads blocks, and remembers the names of the tools that were called."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._names: dict[str, str] = {}

    def parts(self, content: Any) -> list[Part]:
        """The parts of a content: a string, a list of blocks, or nothing."""
        if isinstance(content, str):
            return [TextPart(content)] if content else []
        return [part for block in sequence(content, "content", self._notes) for part in self._block(block)]

    def _block(self, block: Any) -> list[Part]:
        if not isinstance(block, dict):
            self._notes.add("block is not an object")
            return []
        kind = block.get("type")
        kind = kind if isinstance(kind, str) else ""
        match kind:
            case "text":
                return self._text(block, "text", "citations")
            case "thinking":
                text = string(block.get("thinking"), "thinking", self._notes)
                metadata = namespaced("anthropic", {"signature": block.get("signature")})
                return [ReasoningPart(text, provider_metadata=metadata)] if text or metadata else []
            case "redacted_thinking":
                metadata = {"anthropic": {"type": kind, "data": block.get("data")}}
                return [ReasoningPart("", provider_metadata=metadata)]
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                return [self._call(kind, block)]
            case "tool_result":
                return [self._result(block)]
            case "image" | "document":
                return self._media(kind, block)
            case "search_result":
                found = self.parts(block.get("content"))
                text = "".join(part.text for part in found if isinstance(part, TextPart))
                return self._text({**block, "text": text}, "text", "type", "source", "title", "citations")
            case _ if kind.endswith(_RESULT):
                return [self._server_result(kind, block)]
        if kind not in _OPAQUE:
            self._notes.add(f"unknown block: {kind}")
        rest = {key: value for key, value in block.items() if key != "cache_control"}
        return [AttachmentPart(None, namespaced("anthropic", rest))]

    def _text(self, block: Mapping[str, Any], field: str, *kept: str) -> list[Part]:
        text = string(block.get(field), "text", self._notes)
        return [TextPart(text, namespaced("anthropic", {key: block.get(key) for key in kept}))] if text else []

    def _call(self, kind: str, block: Mapping[str, Any]) -> Part:
        call_id = string(block.get("id"), "id", self._notes)
        name = string(block.get("name"), "name", self._notes)
        if call_id:
            self._names[call_id] = name
        own = {"mcp_server_name": block.get("server_name"), "caller": _caller(block)}
        metadata = namespaced("anthropic", {**own, "toolset_name": block.get("toolset_name")})
        server = kind != "tool_use"
        return call_part(name, block.get("input"), call_id, self._notes, metadata=metadata, server_executed=server)

    def _result(self, block: Mapping[str, Any]) -> Part:
        call_id = string(block.get("tool_use_id"), "tool_use_id", self._notes)
        text, media = read_output(block.get("content"), self._inside_result)
        return ToolResultPart(
            name=self._names.get(call_id, ""),
            output=text,
            tool_call_id=call_id or None,
            attachments=media,
            provider_metadata=namespaced(
                "anthropic", {**_error_mark(block), "toolset_name": block.get("toolset_name")}
            ),
        )

    def _inside_result(self, block: dict[str, Any]) -> list[Part]:
        if block.get("type") in ("text", "image", "document"):
            return self._block(block)
        return [AttachmentPart(None)]  # a reference, a search result: kept as JSON

    def _server_result(self, kind: str, block: Mapping[str, Any]) -> Part:
        """As JSON, which the plugin parses again when it sends the block back."""
        content = block.get("content")
        metadata = {**_error_mark(block), "caller": _caller(block)}
        return ToolResultPart(
            name=kind.removesuffix(_RESULT),
            output=content if isinstance(content, str) else "" if content is None else result_json(content),
            tool_call_id=nonempty(block.get("tool_use_id"), "tool_use_id", self._notes),
            server_executed=True,
            provider_metadata=namespaced("anthropic", metadata),
        )

    def _media(self, kind: str, block: Mapping[str, Any]) -> list[Part]:
        what: attachments.Kind = "image" if kind == "image" else "file"
        extra = {key: block.get(key) for key in ("title", "context", "citations", "transformations")}
        source = mapping(block.get("source"), "source", self._notes)
        media_type = nonempty(source.get("media_type"), "media_type", self._notes)
        match source.get("type"):
            case "base64":
                data = string(source.get("data"), "data", self._notes)
                return [attachments.from_base64(data, media_type, what, self._notes, provider="anthropic", extra=extra)]
            case "url":
                url = string(source.get("url"), "url", self._notes)
                return [attachments.from_url(url, what, self._notes, provider="anthropic", extra=extra)]
            case "file":
                file_id = string(source.get("file_id"), "file_id", self._notes)
                return [attachments.from_file_id(file_id, provider="anthropic", extra={"type": kind, **extra})]
            case "text":
                text = string(source.get("data"), "data", self._notes)
                if text:
                    attachment = Attachment(type=media_type or "text/plain", content=text.encode("utf-8", "replace"))
                    return [AttachmentPart(attachment, namespaced("anthropic", extra))]
            case "content":
                return self.parts(source.get("content"))
            case unknown:
                self._notes.add(f"unknown source: {unknown}")
        return [AttachmentPart(None, namespaced("anthropic", {**extra, "type": kind, "source": source}))]


def _caller(block: Mapping[str, Any]) -> Any:
    """Who called the tool, unless it was the model itself, which clients leave out when they echo the block."""
    caller = block.get("caller")
    return None if isinstance(caller, dict) and caller.get("type") == "direct" else caller


def _error_mark(block: Mapping[str, Any]) -> dict[str, Any]:
    return {"is_error": True} if block.get("is_error") is True else {}
