"""The normal form of a conversation: a key that survives how clients echo a reply back.

Measured over recorded traffic, an echo differs from the reply in reasoning (dropped, moved to another field, or into
the text as `<think>`), in `null` for an empty string, in re-serialised tool arguments, in space, in `cache_control`, in
a string for a list with one text part, in several messages for one, and in what the provider's own tools did or drew
(dropped or rewritten). None of these take part in the key. What remains of a message is its role, its text, the content
of its attachments, its tool calls (name, parsed arguments, id) and its tool results. System messages are left out:
agents change them from one request to the next.

A key has two forms, with the tool calls' ids and without: see `normal_form`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.parts import arguments_json, text_of
from llmproxy.store.normal_form import answered, audio_id, given, json_bytes, telling_ids


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

    Neighbouring messages of one role count as one, since clients join and split them. Messages that say nothing count
    as not there, unless they are answers: some answers are empty.
    """
    answers: list[Key] = []
    role: str | None = None
    run: list[Part] = []
    for message in messages:
        if message.role == "system" or not _counts(message):
            continue
        if message.role != role:
            tip = _extend(tip, role, run)
            if role == "assistant":
                answers.append(tip)
            role, run = message.role, []
        run += message.parts
    tip = _extend(tip, role, run)
    if role == "assistant":
        answers.append(tip)
    return ConversationKeys(tuple(answers), tip, role)


def answer_key(
    asked: ConversationKeys, input: Sequence[Message], output: Sequence[Message], *, forced: bool = False
) -> Key | None:
    """The key of a conversation whose `input` has the keys `asked`, with an answer. None where the answer adds nothing
    to an assistant's message that the input ends with.

    `forced`: the model had no choice but to call a tool, which is how structured output is asked for: Mirascope,
    ellmer and chatlas send the call back as the text of an object. A call that its id names needs no key without ids,
    so that one is the text's.
    """
    key = _answer_key(asked, input, output)
    calls = [part for message in output for part in message.parts if isinstance(part, ToolCallPart)]
    if key is None or not forced or len(calls) != 1 or not telling_ids(output):
        return key
    text = Message("assistant", [TextPart(_as_text(calls[0]))])
    as_text = _answer_key(asked, input, [text])
    return Key(key.with_ids, as_text.without_ids) if as_text is not None else key


def _as_text(call: ToolCallPart) -> str:
    # ellmer and chatlas wrap what they ask for, and send it back without the wrapper.
    if call.name == "_structured_tool_call" and call.arguments.keys() == {"data"}:
        return json.dumps(call.arguments["data"], ensure_ascii=False)
    return arguments_json(call)


def _answer_key(asked: ConversationKeys, input: Sequence[Message], output: Sequence[Message]) -> Key | None:
    if asked.role == "assistant":
        # A prefill, with which the answer goes on.
        keys = conversation_keys([*(input[:-1] if _is_repeated(input[-1], output) else input), *output])
    else:
        keys = conversation_keys(output or [Message("assistant")], asked.tip)
    return keys.answers[-1] if keys.answers and keys.tip != asked.tip else None


def _is_repeated(last: Message, output: Sequence[Message]) -> bool:
    """Whether the answer begins with the assistant's message that it goes on with, as Mistral's does where that is
    marked as its `prefix`."""
    text = text_of([last])
    is_prefix = ((last.provider_metadata or {}).get("openai") or {}).get("prefix") is True
    return bool(is_prefix and text and text_of(output).startswith(text))


def _counts(message: Message) -> bool:
    if any(_says_something(part, message.role) for part in message.parts):
        return True
    return message.role == "assistant" and all(isinstance(part, TextPart | ReasoningPart) for part in message.parts)


def _says_something(part: Part, role: str) -> bool:
    match part:
        case TextPart():
            return bool(part.text) and not part.text.isspace()
        case ToolResultPart():
            return not part.server_executed
        case AttachmentPart() if role == "assistant":
            # What only has to be sent back says nothing: a compaction, a reference.
            return part.attachment is not None or audio_id(part) is not None
        case AttachmentPart():
            return part.attachment is not None or part.provider_metadata is not None
    return isinstance(part, ToolCallPart)


def _extend(tip: Key, role: str | None, run: Sequence[Part]) -> Key:
    if role is None:
        return tip
    with_ids, without_ids = answered(run) if role == "assistant" else given(run)
    return Key(
        _hash(tip.with_ids, role.encode(), *sorted(with_ids)),
        _hash(tip.without_ids, role.encode(), *sorted(without_ids)),
    )


def _hash(*pieces: bytes) -> bytes:
    # 64 bits: among a million turns, two unequal conversations share a key once in 30 million databases.
    digest = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        digest.update(b"%d:" % len(piece))
        digest.update(piece)
    return digest.digest()


def exact_key(messages: Sequence[Message]) -> bytes | None:
    """A key of the last answer in messages as it is, reasoning and signatures included, to choose among equals."""
    for message in reversed(messages):
        if message.role == "assistant":
            return _hash(json_bytes(message.to_dict()))
    return None
