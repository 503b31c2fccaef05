"""What the messages of a conversation say, in a normal form with ids and in one without.

With ids, an answer that calls tools is its calls alone, and one that was spoken its audio: their ids tell conversations
apart better than the text beside them, which clients change or leave out. A tool call whose id is random is its id
alone, and so is its result, which agents cut from an old history. Without ids, for those that invent ids of their own,
the text, the arguments and the results count.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llm import Attachment
from llm.parts import AttachmentPart, Message, Part, TextPart, ToolCallPart, ToolResultPart

from llmproxy.parts import unparsed_arguments
from llmproxy.store.agent_text import own_text, plain_numbers, without_recital

_WORD = re.compile("[0-9A-Za-z]{8,}")
_RANDOM_DIGITS = 13
_SPACE = b" \t\n\r\v\f"


def given(run: Sequence[Part]) -> tuple[list[bytes], list[bytes]]:
    """What a user's or a tool's messages say, with and without ids."""
    with_ids: list[bytes] = []
    without_ids: list[bytes] = []
    for part in run:
        if isinstance(part, ToolResultPart) and not part.server_executed:
            said = b"\0".join((b"result", _dense(part.output), *map(_content_id, part.attachments)))
            with_ids.append(_identified(part, said))
            without_ids.append(said)
        elif isinstance(part, AttachmentPart):
            # A file that the provider holds is known by its id.
            said = b"attachment" + (
                _content_id(part.attachment) if part.attachment else json_bytes(part.provider_metadata)
            )
            with_ids.append(said)
            without_ids.append(said)
    if text := _dense(_text(run)):
        with_ids.append(b"text" + text)
        without_ids.append(b"text" + text)
    return with_ids, without_ids


def answered(run: Sequence[Part]) -> tuple[list[bytes], list[bytes]]:
    """What an assistant's messages say, with and without ids."""
    with_ids: list[bytes] = []
    without_ids: list[bytes] = []
    drawn: list[bytes] = []
    is_identified = False
    texts: list[str] = []
    unfolded = list(run)
    for part in run:
        if isinstance(part, TextPart):
            text, calls = without_recital(part.text)
            texts.append(text)
            unfolded += calls
    for part in unfolded:
        if isinstance(part, ToolCallPart) and not part.server_executed:
            said = b"call" + _bytes(part.name) + b"\0" + json_bytes(plain_numbers(_arguments(part)))
            with_ids.append(_identified(part, said))
            without_ids.append(said)
            is_identified = is_identified or bool(part.tool_call_id)
        elif isinstance(part, AttachmentPart):
            spoken = audio_id(part)
            if spoken is not None:
                with_ids.append(b"audio" + _bytes(spoken))
                is_identified = True
            elif part.attachment is not None:
                drawn.append(b"attachment" + _content_id(part.attachment))
    if said := _dense(own_text(texts)):
        without_ids.append(b"text" + said)
        if not is_identified:
            with_ids.append(b"text" + said)
    if not without_ids:
        # An answer may be nothing but the provider's own tools at work (a paused turn), or what they drew: an echo may
        # name only the call.
        without_ids = [b"server" + _bytes(part.name) for part in run if isinstance(part, ToolCallPart)] or drawn
    return with_ids or without_ids, without_ids


def audio_id(part: AttachmentPart) -> str | None:
    """The provider's id of what the model spoke."""
    spoken = ((part.provider_metadata or {}).get("openai") or {}).get("audio_id")
    return spoken if isinstance(spoken, str) else None


def _identified(part: ToolCallPart | ToolResultPart, said: bytes) -> bytes:
    identifier = _bytes(part.tool_call_id or "")
    return b"id" + identifier if _is_telling(part) else said + b"\0" + identifier


def _is_telling(part: ToolCallPart | ToolResultPart) -> bool:
    """Whether the id of a tool call names it by itself: it is random, and no counter (`call_0`, `functions.add:0`)."""
    identifier = part.tool_call_id or ""
    if len(part.name) > 3:
        identifier = identifier.replace(part.name, "")
    return is_random(identifier)


def is_random(identifier: str) -> bool:
    """Whether an id of a provider's is unique by itself: it holds a word that no counter has."""
    return any(map(_is_random, _WORD.findall(identifier)))


def _is_random(word: str) -> bool:
    if word.isdigit():
        # Fewer may be a counter (`call_00000001`), a date or a number that a program was written with.
        return len(word) >= _RANDOM_DIGITS and word[0] != "0"
    letters = word.rstrip("0123456789")
    is_mixed = letters != letters.lower() and letters != letters.upper()
    return any(map(str.isdigit, letters)) or (is_mixed and len(word) >= 16)


def _text(run: Iterable[Part]) -> str:
    return "".join(_texts(run))


def _texts(run: Iterable[Part]) -> Iterator[str]:
    return (part.text for part in run if isinstance(part, TextPart))


def _dense(text: str) -> bytes:
    return _bytes(text).translate(None, _SPACE)


def said_items(message: Message) -> list[bytes]:
    """What one message says, without ids, in the order in which a request says it."""
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    text = _text(message.parts).strip()
    items = [b"text" + _bytes(text)] if text else []
    items += [
        b"call" + _bytes(call.name) + b"\0" + json_bytes(_arguments(call)) for call in calls if not call.server_executed
    ]
    for part in message.parts:
        if isinstance(part, ToolResultPart) and not part.server_executed:
            items.append(b"result" + _bytes(part.output.strip()))
            items += [b"attachment" + _content_id(attachment) for attachment in part.attachments]
        elif isinstance(part, AttachmentPart) and part.attachment is not None:
            items.append(b"attachment" + _content_id(part.attachment))
        elif isinstance(part, AttachmentPart) and message.role != "assistant":
            items.append(b"attachment" + json_bytes(part.provider_metadata))
    return items or [b"server" + _bytes(call.name) for call in calls]


def telling_ids(messages: Iterable[Message]) -> list[str]:
    """The ids of the tool calls in messages that name their call by themselves, oldest first."""
    return [
        part.tool_call_id
        for message in messages
        for part in message.parts
        if isinstance(part, ToolCallPart) and part.tool_call_id and not part.server_executed and _is_telling(part)
    ]


def _content_id(attachment: Attachment) -> bytes:
    # Not `Attachment.id()`: the store may have given it another one (see llm_store.py).
    content = attachment.content or _bytes(attachment.url or "")
    return hashlib.sha256(content).hexdigest().encode()


def _arguments(part: ToolCallPart) -> Any:
    unparsed = unparsed_arguments(part)
    return part.arguments if unparsed is None else unparsed


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
