"""What `llm`'s messages and their parts say: read alike by all that write them in some other form."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llm.parts import Message, Part, TextPart, ToolCallPart, ToolResultPart


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


def with_tool_names(messages: Sequence[Message], known: Sequence[Message] = ()) -> list[Message]:
    """The messages with the tools' names in results that lack one, where a call in them or in `known` tells it."""
    calls = [part for message in (*known, *messages) for part in message.parts if isinstance(part, ToolCallPart)]
    names = {call.tool_call_id: call.name for call in calls if call.tool_call_id}
    return [replace(message, parts=[_with_name(part, names) for part in message.parts]) for message in messages]


def _with_name(part: Part, names: Mapping[str, str]) -> Part:
    if not isinstance(part, ToolResultPart) or part.name:
        return part
    name = names.get(part.tool_call_id or "")
    return replace(part, name=name) if name else part
