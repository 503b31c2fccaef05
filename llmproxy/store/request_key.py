"""When two requests are the same: a hash over the normal form of what they ask, and the same as text, to show where two
differ.

What counts is the API, the model, the system's and everybody's messages in the normal form of `conversation_key`
(without the tool calls' ids, which some clients invent anew), the tools, the schema, and the options that are named.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm import Tool
from llm.parts import AttachmentPart, Message, ToolCallPart, ToolResultPart

from llmproxy.parts import text_of
from llmproxy.store.normal_form import said_items

ALL_OPTIONS = "*"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks, besides its messages. `options` are those that count."""

    api: str
    model: str | None
    tools: Sequence[Tool]
    schema: Mapping[str, Any] | None
    options: Mapping[str, Any]


def counting(options: Mapping[str, Any], match: Collection[str]) -> dict[str, Any]:
    """The options that `match` names; `*` names all of them."""
    return {
        name: value
        for name, value in options.items()
        if name in match or (ALL_OPTIONS in match and name != "stream_options")
    }


def message_digest(message: Message) -> tuple[str, bytes]:
    """Role and normal form of one message; b"" where it says nothing."""
    if message.role == "system":
        # Left out of the key of a conversation, but what the system says makes another request.
        items = [text.encode("utf-8", "surrogatepass")] if (text := _text(message)) else []
    else:
        items = said_items(message)
    return message.role, b"".join(hashlib.blake2b(item, digest_size=16).digest() for item in items)


def request_key(asked: Asked, messages: Iterable[tuple[str, bytes]]) -> bytes:
    """The hash of a request; `messages` are the `message_digest` of each."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(_normal(asked), sort_keys=True).encode())
    before = None
    for role, said in messages:
        if said:
            if role != before:  # neighbours of one role count as one message
                digest.update(b"\0" + role.encode())
            digest.update(said)
            before = role
    return digest.digest()


def normal_text(asked: Asked, messages: Iterable[Message]) -> list[str]:
    """The same as lines of text, for people and for `difflib`."""
    normal = _normal(asked)
    lines = [f"api: {normal['api']}", f"model: {normal['model']}"]
    lines += [f"tool: {json.dumps(tool, sort_keys=True)}" for tool in normal["tools"]]
    if normal["schema"] is not None:
        lines.append(f"schema: {json.dumps(normal['schema'], sort_keys=True)}")
    lines += [f"{name}: {json.dumps(value, sort_keys=True)}" for name, value in sorted(normal["options"].items())]
    for message in messages:
        for said in _said(message):
            first, *rest = said.splitlines() or [""]
            lines += [f"{message.role}: {first}", *(f"  {line}" for line in rest)]
    return lines


def _normal(asked: Asked) -> dict[str, Any]:
    return {
        "api": asked.api,
        "model": asked.model,
        # Some frameworks collect them in a set.
        "tools": sorted([[tool.name, tool.description, tool.input_schema] for tool in asked.tools], key=json.dumps),
        "schema": asked.schema,
        "options": asked.options,
    }


def _said(message: Message) -> list[str]:
    said = [text] if (text := _text(message)) else []
    for part in message.parts:
        if isinstance(part, ToolCallPart) and not part.server_executed:
            said.append(f"calls {part.name}({json.dumps(part.arguments, sort_keys=True)})")
        elif isinstance(part, ToolResultPart) and not part.server_executed:
            said.append(f"result {part.output.strip()}")
        elif isinstance(part, AttachmentPart) and part.attachment is not None:
            content = part.attachment.content
            what = (
                f"{len(content)} bytes {hashlib.sha256(content).hexdigest()[:12]}" if content else part.attachment.url
            )
            said.append(f"attachment {part.attachment.type} {what}")
    return said


def _text(message: Message) -> str:
    return text_of([message]).strip()
