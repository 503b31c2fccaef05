"""Captured turns read back, over a connection that cannot write."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm import Tool
from llm.parts import Message

from llmproxy.store.llm_store import TurnReader


class NothingCaptured(Exception):
    """The database is missing or holds nothing of ours; one line for the user."""


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, usable from any thread, one at a time. Raises `NothingCaptured`."""
    if not path.exists():
        raise NothingCaptured(f"{path}: there is no database yet; it is made when the first exchange is ingested")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, check_same_thread=False)
    try:
        connection.execute("select id from llmproxy_exchanges limit 1").fetchone()
    except sqlite3.DatabaseError as exc:
        connection.close()
        why = "holds nothing captured by llmproxy" if "no such table" in str(exc) else f"cannot be read: {exc}"
        raise NothingCaptured(f"{path}: {why}") from None
    return connection


@dataclass(frozen=True, slots=True)
class CapturedTurn:
    """A turn as it is in the database, with what is known of its exchange.

    `input` is the whole chain of the request, `output` the answer. Times are milliseconds from the exchange's start.
    """

    id: str
    thread_id: str
    upstream: str
    api: str
    client: str | None
    model: str
    resolved_model: str | None
    started_utc: str
    input: tuple[Message, ...]
    output: tuple[Message, ...]
    tools: tuple[Tool, ...]
    schema: Mapping[str, Any] | None
    options: Mapping[str, Any]
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    token_details: Mapping[str, Any]
    first_token_ms: float | None
    duration_ms: float | None


_TURN = """
select turns.id, turns.thread_id, exchanges.upstream, exchanges.api, exchanges.client, turns.model,
    turns.resolved_model, exchanges.started_utc, turns.parent_message_hash, turns.tip_message_hash, schemas.content,
    turns.options_json, exchanges.finish_reason, turns.input_tokens, turns.output_tokens, turns.token_details,
    exchanges.first_token_ms, exchanges.duration_ms
from turns join llmproxy_exchanges as exchanges on exchanges.turn_id = turns.id
left join schemas on schemas.id = turns.schema_id
where turns.id = ?
"""


def read_turn(database: sqlite3.Connection, turn_id: str) -> CapturedTurn:
    """The turn of this id. Raises `KeyError` where no captured turn has it."""
    row = database.execute(_TURN, [turn_id]).fetchone()
    if row is None:
        raise KeyError(turn_id)
    (id, thread_id, upstream, api, client, model, resolved_model, started_utc, parent, tip, schema) = row[:11]
    (options, finish_reason, input_tokens, output_tokens, details, first_token_ms, duration_ms) = row[11:]
    reader = TurnReader(database)
    hashes = reader.chain(tip)
    messages = reader.messages(hashes)
    split = hashes.index(parent) + 1 if parent is not None else 0
    return CapturedTurn(
        id=id,
        thread_id=thread_id,
        upstream=upstream,
        api=api,
        client=client,
        model=model,
        resolved_model=resolved_model,
        started_utc=started_utc,
        input=tuple(messages[hash] for hash in hashes[:split]),
        output=tuple(messages[hash] for hash in hashes[split:]),
        tools=read_tools(database, turn_id),
        schema=json.loads(schema) if schema else None,
        options=json.loads(options) if options else {},
        finish_reason=finish_reason,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        token_details=json.loads(details) if details else {},
        first_token_ms=first_token_ms,
        duration_ms=duration_ms,
    )


def read_tools(database: sqlite3.Connection, turn_id: str) -> tuple[Tool, ...]:
    """The tools that a turn's model was given, in order.

    `turn_tools` names them only where a thread begins or they change; a turn that asks another one again, and a
    database that an older version wrote, have them there alone.
    """
    sources = ["turn_tools join tools on tools.id = turn_tools.tool_id where turn_id = ? order by turn_tools.rowid"]
    if database.execute("select 1 from sqlite_master where name = 'llmproxy_turn_tools'").fetchone() is not None:
        sources.insert(0, "llmproxy_turn_tools where turn_id = ? order by position")
    for source in sources:
        rows = database.execute(f"select name, description, input_schema from {source}", [turn_id]).fetchall()
        if rows:
            break
    return tuple(
        Tool(name=name, description=description or None, input_schema=json.loads(schema) if schema else {})
        for name, description, schema in rows
    )
