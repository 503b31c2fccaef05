"""`llm.logs.LogStore`, with a few statements where it takes hundreds.

`LogStore` asks for each message of a chain whether it is there, and inserts each message and part by itself, asking
for the table's schema every time: 14 ms for 200 new messages, and 4 ms for 200 known ones. What is written here is the
same, row for row, but for the spelling of JSON (`json_text`); a test holds the two together.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from llm import Tool
from llm.logs import LogStore, _attachments_of, _payload_replacements, message_hash
from llm.parts import Message, Part
from llm.utils import ensure_tool, make_schema_id

from llmproxy.parts import text_of
from llmproxy.store.condense import condensed
from llmproxy.store.json_text import json_text

_MAX_VARIABLES = 500
_TOOL_LISTS = 16


class BulkLogStore(LogStore):
    """A `LogStore` that writes chains in bulk, and finds tools that it has seen without asking the database."""

    def __init__(self, db: Any) -> None:
        super().__init__(db)  # type: ignore[no-untyped-call]
        self._connection: sqlite3.Connection = db.conn
        self._tool_lists: list[tuple[list[Tool], list[str]]] = []

    def ensure_chain(
        self, messages: Sequence[Message], parent: str | None = None, fragments: Sequence[str] | None = None
    ) -> str | None:
        """As in `LogStore`: store what is not stored yet of a chain, and return the hash of its tip."""
        if fragments:
            return super().ensure_chain(messages, parent, fragments)
        chain: list[tuple[str, str | None, Message]] = []
        tip = parent
        for message in messages:
            before, tip = tip, message_hash(message, tip)
            chain.append((tip, before, message))
        stored = self._stored([hash for hash, _, _ in chain])
        # The same message may stand in a chain only once, since its hash covers what came before it.
        self._insert([link for link in chain if link[0] not in stored])
        return tip

    def _stored(self, hashes: Sequence[str]) -> set[str]:
        """Which of the hashes have a message already."""
        stored: set[str] = set()
        for at in range(0, len(hashes), _MAX_VARIABLES):
            some = hashes[at : at + _MAX_VARIABLES]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(f"select hash from messages where hash in ({marks})", some)
            stored.update(row[0] for row in rows)
        return stored

    def _insert(self, chain: Sequence[tuple[str, str | None, Message]]) -> None:
        if not chain:
            return
        self._connection.executemany(
            "insert into messages (hash, parent_hash, role, provider_metadata) values (?, ?, ?, ?)",
            [
                (
                    hash,
                    parent,
                    message.role,
                    json_text(message.provider_metadata) if message.provider_metadata else None,
                )
                for hash, parent, message in chain
            ],
        )
        plain: list[tuple[Any, ...]] = []
        for hash, _, message in chain:
            for position, part in enumerate(message.parts):
                if _attachments_of(part):
                    # Part by part: their ids are needed. In order, so that parts have the ids that `LogStore` gives.
                    self._insert_parts(plain)
                    plain = []
                    self._write_part(hash, position, part, {})
                else:
                    plain.append(_part_row(hash, position, part))
        self._insert_parts(plain)

    def _insert_parts(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._connection.executemany(
            "insert into parts (message_hash, position, type, tool_name, text, payload) values (?, ?, ?, ?, ?, ?)", rows
        )

    def tool_ids(self, tools: Sequence[Tool]) -> list[int]:
        """The rows of tools, made where they are not there; each once, in order."""
        hashes = self._hashes_of(tools)
        found: dict[str, int] = {}
        for at in range(0, len(hashes), _MAX_VARIABLES):
            some = hashes[at : at + _MAX_VARIABLES]
            marks = ",".join("?" * len(some))
            found.update(self._connection.execute(f"select hash, id from tools where hash in ({marks})", some))
        for tool, hash in zip(tools, hashes, strict=True):
            if hash not in found:
                found[hash] = ensure_tool(self.db, tool)
        return list(dict.fromkeys(found[hash] for hash in hashes))

    def _hashes_of(self, tools: Sequence[Tool]) -> list[str]:
        """An agent sends the same tools with each request, and to hash thirty of them takes a millisecond."""
        for known, hashes in self._tool_lists:
            if len(known) == len(tools) and known == list(tools):
                return hashes
        hashes = [tool.hash() for tool in tools]
        self._tool_lists = [(list(tools), hashes), *self._tool_lists[: _TOOL_LISTS - 1]]
        return hashes

    def schema_id(self, schema: Mapping[str, Any] | None) -> str | None:
        """The row of a JSON schema, made where it is not there."""
        if not schema:
            return None
        id, content = make_schema_id(dict(schema))
        self._connection.execute("insert or ignore into schemas (id, content) values (?, ?)", [id, content])
        return id

    def index_turn(self, turn_id: str, input: Sequence[Message], output: Sequence[Message]) -> None:
        """Let a turn be found by the words that were said in it: what `TURN_SEARCH_INSERT_SQL` reads back from the
        database, from the tip on, is at hand here."""
        prompt = text_of(message for message in input[-1:] if message.role == "user")
        response = text_of(message for message in reversed(output) if message.role == "assistant")
        if prompt or response:
            self._connection.execute(
                "insert into turn_search (turn_id, prompt, response) values (?, ?, ?)", [turn_id, prompt, response]
            )


def response_text(
    response: Any, output: Sequence[Message], tools: Sequence[Tool], schema: Mapping[str, Any] | None
) -> str | None:
    """A response object as `turns.response_json` holds it: what the turn's own messages say is left to them."""
    if response is None:
        return None
    pairs = [(tool.name, tool.description) for tool in tools]
    return condensed(response, _payload_replacements(output, pairs, schema))


def _part_row(hash: str, position: int, part: Part) -> tuple[Any, ...]:
    payload: dict[str, Any] = dict(part.to_dict())
    kind = payload.pop("type")
    text = payload.pop("text", None) if kind in ("text", "reasoning") else None
    return hash, position, kind, payload.get("name"), text, json_text(payload) if payload else None
