"""The one module that touches `llm`'s store: it writes captured turns as `llm` writes its own.

It uses `llm.logs`, which is not in `llm.__all__`; a test that reads back through `llm logs --json` tells when a new
version of `llm` changes it.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condense_json import condense_json
from llm import Tool
from llm.logs import LogStore, _attachments_of, condense_payload
from llm.models import _conversation_name
from llm.parts import Message, TextPart
from sqlite_utils import Database

from llmproxy.capture.spool import make_folder
from llmproxy.reconstruct.turn import Output, Turn
from llmproxy.store.exchanges import migrations, utc

# `condense_payload` looks for each stored string at each place of the payload: 0.9 s were seen for a payload of 1 MB
# whose text the messages do not hold, and it grows with the square. Larger ones are stored as they are.
CONDENSE_BYTES = 64 * 1024
CACHE_KIB = 48 * 1024
_TAGGED = re.compile(r"\s*<([A-Za-z][\w-]*)>.*</\1>\s*", re.S)


def open_database(path: Path, *, full_sync: bool = False) -> Database:
    """The logs database, made and migrated where it must be, in WAL mode, so that readers never wait for us.

    - `full_sync`: a commit survives the machine's death, not only the process's.

    Raises `sqlite3.Error` or `OSError`.
    """
    make_folder(path.parent)
    if not path.exists():
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
    try:
        connection.execute("pragma journal_mode = wal")
        # Look-ups of threads jump about in the indices: more of these fit than into SQLite's 2 MB.
        connection.execute(f"pragma cache_size = -{CACHE_KIB}")
        connection.execute(f"pragma synchronous = {'full' if full_sync else 'normal'}")
        db = Database(connection)
        LogStore(db)
        migrations.apply(db)
    except BaseException:
        connection.close()
        raise
    return db


@dataclass(frozen=True, slots=True)
class _Model:
    model_id: str


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What `LogStore.log` reads of `llm.Prompt`."""

    messages: Sequence[Message]
    options: Mapping[str, Any]
    tools: Sequence[Tool]
    schema: Mapping[str, Any] | None
    prompt: str = ""
    system: str = ""
    fragments: Sequence[str] = ()
    system_fragments: Sequence[str] = ()
    tool_results: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Response:
    """What `LogStore.log` reads of `llm.Response`."""

    id: str
    model: _Model
    prompt: _Prompt
    output: Sequence[Message]
    resolved_model: str | None
    input_tokens: int | None
    output_tokens: int | None
    token_details: Mapping[str, Any] | None
    milliseconds: int | None
    started: float
    # Written afterwards: see CONDENSE_BYTES.
    response_json: None = None
    conversation: None = None

    def _messages_now(self) -> Sequence[Message]:
        return self.output

    def duration_ms(self) -> int | None:
        return self.milliseconds

    def datetime_utc(self) -> str:
        return utc(self.started)


class TurnStore:
    """Writes turns and threads into `llm`'s tables."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._logs = LogStore(db)

    def write_turn(
        self,
        turn: Turn,
        output: Output,
        *,
        turn_id: str,
        thread_id: str,
        input: Sequence[Message],
        started: float,
        milliseconds: int | None,
    ) -> None:
        """Write one answer of a turn, on the whole chain of its input, into a thread that exists."""
        response = _Response(
            id=turn_id,
            model=_Model(turn.model or turn.resolved_model or "unknown"),
            prompt=_Prompt(messages=input, options=turn.options, tools=turn.tools, schema=turn.schema),
            output=output.messages,
            resolved_model=turn.resolved_model,
            input_tokens=turn.usage.input_tokens,
            output_tokens=turn.usage.output_tokens,
            token_details=dict(turn.usage.details) or None,
            milliseconds=milliseconds,
            started=started,
        )
        self._tell_attachments_apart([*input, *output.messages])
        self._logs.log(response, thread_id)
        if turn.response_json is not None:
            self.db.execute(
                "update turns set response_json = ? where id = ?", [_condensed(turn, output.messages), turn_id]
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
            [thread_id, _conversation_name(_question(messages)), forked_from, utc(started)],
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


def _question(messages: Sequence[Message]) -> str:
    """What the user said last.

    Agents put context of their own beside it, each block within a tag, such as Claude Code's `<system-reminder>` and
    Codex's `<environment_context>`: it counts only where there is nothing else.
    """
    context = ""
    for message in reversed(messages):
        if message.role == "user":
            texts = [part.text for part in message.parts if isinstance(part, TextPart)]
            said = "".join(text for text in texts if not _TAGGED.fullmatch(text))
            if said.strip():
                return said
            context = context or "".join(texts)
    return context


def _condensed(turn: Turn, output: Sequence[Message]) -> str | None:
    plain = json.dumps(turn.response_json)
    if len(plain) > CONDENSE_BYTES:
        # Without replacements it only escapes what would be read as one.
        return json.dumps(condense_json(turn.response_json, {}))
    tools = [(tool.name, tool.description) for tool in turn.tools]
    return condense_payload(turn.response_json, output, tools, schema=turn.schema)
