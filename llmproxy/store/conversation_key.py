"""The normal form of a conversation: a key that survives how clients echo a reply back.

Measured over recorded traffic, an echo differs from the reply in reasoning (dropped, moved to another field, or into
the text), in `null` for an empty string, in re-serialised tool arguments, in trimmed space, in `cache_control`, in a
string for a list with one text part, and in what the provider's own tools did (dropped or rewritten). None of these
take part in the key. What remains of a message is its role, its text, the content of its attachments, its tool calls
(name, parsed arguments, id) and its tool results. System messages are left out: agents change them from one request to
the next.

A key has two forms. With ids, an answer that calls tools is its calls alone: their ids tell conversations apart better
than the text beside them, which clients change. Without ids, for those that invent ids of their own, the text counts.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llm import Attachment
from llm.parts import AttachmentPart, Message, TextPart, ToolCallPart, ToolResultPart

from llmproxy.parts import unparsed_arguments


@dataclass(frozen=True, slots=True)
class Key:
    """A conversation up to and including an answer: a hash with the tool calls' ids, and one without."""

    with_ids: bytes
    without_ids: bytes


@dataclass(frozen=True, slots=True)
class ConversationKeys:
    """`answers`: a key for each answer in the messages, oldest first. `tip`: the key of all of them; `role`: the last
    one's, None where nothing was said."""

    answers: tuple[Key, ...]
    tip: Key
    role: str | None


_EMPTY = Key(b"", b"")


def conversation_keys(messages: Iterable[Message], tip: Key = _EMPTY) -> ConversationKeys:
    """The keys of a conversation, by one pass over its messages.

    Neighbouring messages of one role count as one, since clients join and split them; messages that say nothing count
    as not there.
    """
    answers: list[Key] = []
    role: str | None = None
    items: list[tuple[bytes, bytes]] = []
    for message in messages:
        if message.role == "system":
            continue
        said = said_items(message)
        if not said:
            continue
        if message.role != role:
            tip = _extend(tip, role, items)
            if role == "assistant":
                answers.append(tip)
            role, items = message.role, []
        items += said
    tip = _extend(tip, role, items)
    if role == "assistant":
        answers.append(tip)
    return ConversationKeys(tuple(answers), tip, role)


def answer_key(asked: ConversationKeys, input: Sequence[Message], output: Sequence[Message]) -> Key | None:
    """The key of a conversation whose `input` has the keys `asked`, with an answer. None where the answer is empty."""
    # An answer to a conversation that ends with an assistant's message (a prefill) goes on with that message.
    keys = conversation_keys([*input, *output]) if asked.role == "assistant" else conversation_keys(output, asked.tip)
    return keys.answers[-1] if keys.answers and keys.tip != asked.tip else None


def _extend(tip: Key, role: str | None, items: Sequence[tuple[bytes, bytes]]) -> Key:
    if not items:
        return tip
    prefix = (role or "").encode()
    return Key(
        _hash(tip.with_ids, prefix, *(item[0] for item in items if item[0])),
        _hash(tip.without_ids, prefix, *(item[1] for item in items)),
    )


def _hash(*pieces: bytes) -> bytes:
    # 64 bits: among a million turns, two unequal conversations share a key once in 30 million databases.
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(b"%d:" % len(piece))
        digest.update(piece)
    return digest.digest()


def said_items(message: Message) -> list[tuple[bytes, bytes]]:
    """What a message says, each item with and without ids; b"" where it does not count in that form."""
    items: list[tuple[bytes, bytes]] = []
    calls = [part for part in message.parts if isinstance(part, ToolCallPart) and not part.server_executed]
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart)).strip()
    if text:
        item = b"text" + _bytes(text)
        items.append((b"" if any(part.tool_call_id for part in calls) else item, item))
    for call in calls:
        said = _bytes(call.name) + b"\0" + _json(_arguments(call))
        items.append((b"call" + _bytes(call.tool_call_id or "") + b"\0" + said, b"call" + said))
    for part in message.parts:
        if isinstance(part, ToolResultPart) and not part.server_executed:
            output = _bytes(part.output.strip())
            items.append((b"result" + _bytes(part.tool_call_id or "") + b"\0" + output, b"result" + output))
            items += [_same(b"attachment", _content_id(attachment)) for attachment in part.attachments]
        elif isinstance(part, AttachmentPart) and part.attachment is not None:
            items.append(_same(b"attachment", _content_id(part.attachment)))
        elif isinstance(part, AttachmentPart) and message.role != "assistant":
            items.append(_same(b"attachment", _json(part.provider_metadata).decode()))  # a file by the provider's id
    return items or [
        # An answer may be nothing but the provider's own tools at work (a paused turn); then that is what it said.
        _same(b"server", part.name)
        for part in message.parts
        if isinstance(part, ToolCallPart)
    ]


def exact_key(messages: Sequence[Message]) -> bytes | None:
    """A key of the last answer in messages as it is, reasoning and signatures included, to choose among equals."""
    for message in reversed(messages):
        if message.role == "assistant":
            return _hash(_json(message.to_dict()))
    return None


def called_ids(messages: Iterable[Message]) -> list[str]:
    """The ids of the tool calls in messages, oldest first."""
    return [
        part.tool_call_id
        for message in messages
        for part in message.parts
        if isinstance(part, ToolCallPart) and part.tool_call_id and not part.server_executed
    ]


def _content_id(attachment: Attachment) -> str:
    # Not `Attachment.id()`: the store may have given it another one (see llm_store.py).
    return hashlib.sha256(attachment.content or (attachment.url or "").encode("utf-8", "surrogatepass")).hexdigest()


def _arguments(part: ToolCallPart) -> Any:
    unparsed = unparsed_arguments(part)
    return part.arguments if unparsed is None else unparsed


def _same(kind: bytes, text: str) -> tuple[bytes, bytes]:
    item = kind + _bytes(text)
    return item, item


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
