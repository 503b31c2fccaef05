"""Items of earlier responses that a request names in place of sending them (Responses: `item_reference`).

The Vercel AI SDK does so by default for messages, reasoning and calls that the provider stored. A referenced item
stands for the parts of the answer that it was read as; where it is not in the database, the reference stays as it is.
Ids that may be a counter (`msg_1`) or made up are left alone: they would join strangers.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llm.parts import AttachmentPart, Message, Part

from llmproxy.parts import with_tool_names
from llmproxy.reconstruct.items import read_items
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.llm_store import TurnReader
from llmproxy.store.normal_form import is_random

# SQLite takes no more than 999 values in a statement where it is old.
_MOST = 400


@dataclass(frozen=True, slots=True)
class Item:
    """An item of an answer: which of the answer's parts, counted over all its messages, it was read as."""

    id: str
    first: int
    parts: int


def answered_items(turn: Turn) -> list[Item]:
    """The items of a turn's answer that a later request may name; none where the provider was told not to store it."""
    response = turn.response_json
    if turn.api != "responses" or turn.options.get("store") is False or not isinstance(response, dict):
        return []
    output = response.get("output")
    found: list[Item] = []
    first = 0
    for item in output if isinstance(output, list) else []:
        parts = sum(len(message.parts) for message in read_items([item], Notes(), default_role="assistant"))
        identifier = item.get("id") if isinstance(item, dict) else None
        if isinstance(identifier, str) and is_random(identifier):
            found.append(Item(identifier, first, parts))
        first += parts
    return found


def last_reference(messages: Sequence[Message]) -> str | None:
    """The id of the last item that the last answer in a request's messages is named by."""
    last = next((message for message in reversed(messages) if message.role == "assistant"), None)
    return next((id for part in reversed(last.parts) if (id := _referenced(part))), None) if last else None


class Items:
    """Finds items in the tables of one database, over a connection that may be read-only."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._reader = TurnReader(db)

    def whole(self, turn: Turn, before: str | None = None) -> Turn:
        """A turn whose input has the items that it names in place of the references.

        `before`: the id of the turn's exchange, where only earlier ones count.
        """
        named = [id for message in turn.input for part in message.parts if (id := _referenced(part))]
        said = self._said(named, before) if named else {}
        return replace(turn, input=tuple(with_tool_names(list(_replaced(turn.input, said))))) if said else turn

    def _said(self, named: Sequence[str], before: str | None) -> dict[str, list[Message]]:
        """What items say, by their ids: of each the newest."""
        found: dict[str, tuple[str, int, int]] = {}
        if self._db.execute("select 1 from sqlite_master where name = 'llmproxy_items'").fetchone() is None:
            return {}  # a database that an older version wrote, and that is only read
        ids = list(dict.fromkeys(named))
        for at in range(0, len(ids), _MOST):
            some = ids[at : at + _MOST]
            rows = self._db.execute(
                "select item_id, turn_id, first, parts from llmproxy_items join llmproxy_turns using (turn_id)"
                f" where item_id in ({','.join('?' * len(some))}) and (? is null or exchange_id < ?) order by turn_id",
                [*some, before, before],
            )
            found.update({row[0]: row[1:] for row in rows})
        answers = self._reader.answers([turn_id for turn_id, _, _ in found.values()])
        return {
            id: _cut(answers[turn_id], first, first + parts)
            for id, (turn_id, first, parts) in found.items()
            if turn_id in answers
        }


def _referenced(part: Part) -> str | None:
    if not isinstance(part, AttachmentPart) or part.attachment is not None:
        return None
    own = (part.provider_metadata or {}).get("openai") or {}
    identifier = own.get("id")
    is_reference = own.get("type") == "item_reference" and isinstance(identifier, str) and is_random(identifier)
    return identifier if is_reference else None


def _cut(messages: Sequence[Message], first: int, end: int) -> list[Message]:
    """The parts of messages from the one to before the other, each in a message of its message's role."""
    cut: list[Message] = []
    at = 0
    for message in messages:
        parts = message.parts[max(first - at, 0) : max(end - at, 0)]
        if parts:
            cut.append(Message(message.role, parts, message.provider_metadata))
        at += len(message.parts)
    return cut


def _replaced(messages: Sequence[Message], said: Mapping[str, list[Message]]) -> Iterator[Message]:
    """The messages with what is said in place of the references. As when items are read, neighbours of the assistant's
    are one message, and so are tool results; an item stands once, however often it is named."""
    waiting: Message | None = None
    stands: set[str] = set()
    for piece in (piece for message in messages for piece in _pieces(message, said, stands)):
        if waiting is not None and piece.role == waiting.role and piece.role in ("assistant", "tool"):
            waiting = Message(piece.role, [*waiting.parts, *piece.parts], waiting.provider_metadata)
        else:
            if waiting is not None:
                yield waiting
            waiting = piece
    if waiting is not None:
        yield waiting


def _pieces(message: Message, said: Mapping[str, list[Message]], stands: set[str]) -> Iterator[Message]:
    if not any(_referenced(part) in said for part in message.parts):
        yield message
        return
    for part in message.parts:
        id = _referenced(part)
        if id is None or id not in said:
            yield Message(message.role, [part], message.provider_metadata)
        elif id not in stands:
            stands.add(id)
            yield from said[id]
