"""What `llm`'s messages and their parts say, as text: read alike by all that write them in some other form."""

import json
from collections.abc import Iterable

from llm.parts import Message, TextPart, ToolCallPart


def text_of(messages: Iterable[Message]) -> str:
    """What messages say in text, one after the other."""
    return "".join(part.text for message in messages for part in message.parts if isinstance(part, TextPart))


def arguments_json(call: ToolCallPart) -> str:
    """A call's arguments as JSON text, to the letter where what came was no JSON object."""
    unparsed = unparsed_arguments(call)
    return json.dumps(call.arguments, ensure_ascii=False) if unparsed is None else unparsed


def unparsed_arguments(call: ToolCallPart) -> str | None:
    """A call's arguments to the letter where they are no JSON object, as `reconstruct.arguments` keeps them."""
    unparsed = ((call.provider_metadata or {}).get("llmproxy") or {}).get("arguments")
    return unparsed if isinstance(unparsed, str) else None
