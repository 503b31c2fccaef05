"""The one module that touches `llm`'s store: it writes captured turns as `llm` writes its own.

It uses `llm.logs`, which is not in `llm.__all__`; a test that reads back through `llm logs --json` tells when a new
version of `llm` changes it.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from condense_json import UncondenseError
from llm import Tool
from llm.logs import LogStore, _attachments_of
from llm.models import _conversation_name
from llm.parts import Message, TextPart
from sqlite_utils import Database

from llmproxy.parts import text_of
from llmproxy.reconstruct.turn import Output, Turn
from llmproxy.store.exchanges import insert, utc
from llmproxy.store.json_text import json_text
from llmproxy.store.log_store import BulkLogStore, response_text

_TAGGED = re.compile(r"\s*<([A-Za-z][\w-]*)>.*</\1>\s*", re.S)


class TurnStore:
    """Writes turns and threads into `llm`'s tables."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._logs = BulkLogStore(db)

    def tool_set(self, tools: Sequence[Tool]) -> int | None:
        """The row in `llmproxy_tool_sets` of the tools that a request was given, made where it is not there; None for
        none."""
        if not tools:
            return None
        ids = json.dumps(self._logs.tool_ids(tools))
        self.db.conn.execute("insert or ignore into llmproxy_tool_sets (tools) values (?)", [ids])
        row = self.db.conn.execute("select id from llmproxy_tool_sets where tools = ?", [ids]).fetchone()
        return int(row[0])

    def name_tools(self, turn_id: str, tool_set: int | None) -> None:
        """Give a turn its rows in `turn_tools`, where `llm logs` looks for the tools of a thread."""
        if tool_set is not None:
            self.db.conn.execute(
                "insert or ignore into turn_tools (turn_id, tool_id) select ?, tool.value"
                " from llmproxy_tool_sets, json_each(llmproxy_tool_sets.tools) as tool where llmproxy_tool_sets.id = ?",
                [turn_id, tool_set],
            )

    def write_turn(
        self,
        turn: Turn,
        output: Output,
        *,
        turn_id: str,
        thread_id: str,
        input: Sequence[Message],
        tool_set: int | None,
        started: float,
        milliseconds: int | None,
    ) -> None:
        """Write one answer of a turn, on the whole chain of its input, into a thread that exists.

        `tool_set`: given where the turn is to have rows in `turn_tools`.
        """
        self._tell_attachments_apart([*input, *output.messages])
        parent = self._logs.ensure_chain(input)
        tip = self._logs.ensure_chain(output.messages, parent=parent)
        self.name_tools(turn_id, tool_set)
        options = {key: value for key, value in turn.options.items() if value is not None}
        insert(
            self.db.conn,
            "turns",
            {
                "id": turn_id,
                "thread_id": thread_id,
                "parent_message_hash": parent,
                "tip_message_hash": tip,
                "model": turn.model or turn.resolved_model or "unknown",
                "resolved_model": turn.resolved_model,
                "options_json": json_text(options) if options else None,
                "schema_id": self._logs.schema_id(turn.schema),
                "input_tokens": turn.usage.input_tokens,
                "output_tokens": turn.usage.output_tokens,
                "token_details": json_text(dict(turn.usage.details)) if turn.usage.details else None,
                "duration_ms": milliseconds,
                "datetime_utc": utc(started),
                # Read back with the tools that `turn_tools` names, so written with no others.
                "response_json": response_text(
                    turn.response_json, output.messages, turn.tools if tool_set is not None else (), turn.schema
                ),
            },
        )
        self._logs.index_turn(turn_id, input, output.messages)

    def remove_turn(self, turn_id: str) -> bool:
        """Remove a turn, whose messages stay, since others may stand on them. Returns whether it was there."""
        for table in ("turn_tools", "turn_search"):
            self.db.conn.execute(f"delete from {table} where turn_id = ?", [turn_id])
        return self.db.conn.execute("delete from turns where id = ?", [turn_id]).rowcount > 0

    def remove_empty_thread(self, thread_id: str) -> None:
        """Remove a thread that has no turns."""
        self.db.conn.execute(
            "delete from threads where id = ? and not exists (select 1 from turns where thread_id = threads.id)",
            [thread_id],
        )

    def _tell_attachments_apart(self, messages: Sequence[Message]) -> None:
        """`llm` keeps one row for an attachment's content, and with it one type, while a message's hash covers both:
        the same bytes sent as another type would break the hashes of those that came before. They get a row of their
        own."""
        rows: dict[str, tuple[Any, ...]] = {}
        for attachment in (a for message in messages for part in message.parts for a in _attachments_of(part)):
            sent = (attachment.type, attachment.url, attachment.path)
            id = attachment.id()
            found = (
                rows.get(id) or self.db.execute("select type, url, path from attachments where id = ?", [id]).fetchone()
            )
            if found is not None and found != sent:
                mark = json.dumps(sent).encode()
                attachment._id = id = hashlib.sha256(mark + (attachment.content or b"")).hexdigest()
            rows[id] = sent

    def ensure_thread(
        self, thread_id: str, messages: Sequence[Message], forked_from: str | None, started: float
    ) -> None:
        """Make a thread, named after what the user said last, unless it is there."""
        self.db.execute(
            "insert or ignore into threads (id, name, forked_from, datetime_utc) values (?, ?, ?, ?)",
            [thread_id, _conversation_name(_question(messages).strip()), forked_from, utc(started)],
        )

    def branch_thread(self, thread_id: str, old: str) -> None:
        """Make a thread with the name of another, unless it is there."""
        self.db.execute(
            "insert or ignore into threads (id, name, datetime_utc)"
            " select ?, name, datetime_utc from threads where id = ?",
            [thread_id, old],
        )

    def move_turn(self, turn_id: str, thread_id: str) -> None:
        """Put a turn that is stored into another thread."""
        self.db.execute("update turns set thread_id = ? where id = ?", [thread_id, turn_id])

    def point_thread(self, thread_id: str, turn_id: str) -> None:
        """Let a thread end with a turn; without the turn, it is of no use and removed."""
        self.db.execute(
            "update threads set tip_message_hash = (select tip_message_hash from turns where id = ?) where id = ?",
            [turn_id, thread_id],
        )

    def fork_thread(self, thread_id: str, forked_from: str | None) -> None:
        """Say where a thread branched off."""
        self.db.execute("update threads set forked_from = ? where id = ?", [forked_from, thread_id])

    def history(self, turn_id: str) -> list[Message]:
        """The whole conversation up to and including a turn's answer, oldest first; empty where it is not stored."""
        row = self.db.execute("select tip_message_hash from turns where id = ?", [turn_id]).fetchone()
        return self._logs.load_chain(row[0]) if row is not None else []


class TurnReader:
    """Reads what `TurnStore` wrote, over a connection that may be read-only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._logs = _Unmigrated(Database(connection))

    def chain(self, tip: str | None) -> list[str]:
        """The hashes of the messages up to and including `tip`, oldest first."""
        rows = self._logs.db.execute(
            "with recursive chain(hash, parent, at) as ("
            " select hash, parent_hash, 0 from messages where hash = ?"
            " union all select messages.hash, messages.parent_hash, at + 1"
            " from messages join chain on messages.hash = chain.parent"
            ") select hash from chain order by at desc",
            [tip],
        )
        return [row[0] for row in rows]

    def messages(self, hashes: Sequence[str]) -> dict[str, Message]:
        """The messages that have these hashes."""
        found: dict[str, Message] = {}
        for at in range(0, len(hashes), 500):
            some = list(hashes[at : at + 500])
            parts = self._logs._load_parts(some)
            marks = ",".join("?" * len(some))
            for hash, role, metadata in self._logs.db.execute(
                f"select hash, role, provider_metadata from messages where hash in ({marks})", some
            ):
                found[hash] = Message(role, parts.get(hash, []), json.loads(metadata) if metadata else None)
        return found

    def conversation(self, tip: str | None) -> list[Message]:
        """All messages up to and including `tip`, oldest first."""
        hashes = self.chain(tip)
        messages = self.messages(hashes)
        return [messages[hash] for hash in hashes]

    def answers(self, turn_ids: Sequence[str]) -> dict[str, list[Message]]:
        """The messages of turns' answers, by the turns' ids; without the turns that are not stored."""
        hashes: dict[str, list[str]] = {}
        ids = list(dict.fromkeys(turn_ids))
        for at in range(0, len(ids), 500):
            some = ids[at : at + 500]
            rows = self._logs.db.execute(
                "with recursive said(turn_id, hash, asked, at) as ("
                " select id, tip_message_hash, parent_message_hash, 0 from turns"
                f" where id in ({','.join('?' * len(some))})"
                " union all select turn_id, messages.parent_hash, asked, at + 1"
                " from said join messages on messages.hash = said.hash where said.hash is not asked"
                ") select turn_id, hash, hash is null or hash is asked from said order by turn_id, at desc",
                some,
            )
            for turn_id, hash, is_asked in rows:
                said = hashes.setdefault(turn_id, [])
                if not is_asked:
                    said.append(hash)
        messages = self.messages([hash for said in hashes.values() for hash in said])
        return {turn_id: [messages[hash] for hash in said if hash in messages] for turn_id, said in hashes.items()}

    def response_json(self, turn_id: str) -> Any:
        """The response object of a turn; None where there is none, or what it refers to is gone."""
        try:
            return self._logs.turn_response_json(turn_id)
        except UncondenseError:
            return None


class _Unmigrated(LogStore):
    """`LogStore` migrates what it is given, which a reader must not."""

    def __init__(self, db: Database) -> None:
        self.db = db


def _question(messages: Sequence[Message]) -> str:
    """What the user said last.

    Agents put context of their own beside it, each block within a tag, such as Claude Code's `<system-reminder>` and
    Codex's `<environment_context>`: it counts only where there is nothing else. Where the user said nothing at all,
    what others said last does: agents that choose among agents (AutoGen's) ask with a system message alone.
    """
    context = ""
    for message in reversed(messages):
        if message.role == "user":
            texts = [part.text for part in message.parts if isinstance(part, TextPart)]
            said = "".join(text for text in texts if not _TAGGED.fullmatch(text))
            if said.strip():
                return said
            context = context or "".join(texts)
    return context or next(filter(str.strip, (text_of([message]) for message in reversed(messages))), "")
