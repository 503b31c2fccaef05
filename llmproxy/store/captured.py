"""Captured turns read back: all that the request held, and how its answer came."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm import Tool
from llm.parts import Message

from llmproxy.reconstruct.turn import Api
from llmproxy.store.llm_store import TurnReader


@dataclass(frozen=True, slots=True)
class CapturedTurn:
    """A turn as it is stored.

    - `input`: the whole chain of messages that was asked with; `output`: the answer's.
    - `tools`, `schema`, `options`: as `Turn` has them.
    - `api`, `upstream`, `client`, `status`, `headers` (of the request, redacted), the times (milliseconds from the
      exchange's start) and `finish_reason` are of its exchange; None or empty where `llm` itself logged the turn.
    - `whole_input`: False where the provider kept a part of the history that is not in the database.
    """

    id: str
    thread_id: str | None
    model: str
    input: tuple[Message, ...]
    output: tuple[Message, ...]
    tools: tuple[Tool, ...]
    schema: Mapping[str, Any] | None
    options: Mapping[str, Any]
    input_tokens: int | None
    output_tokens: int | None
    token_details: Mapping[str, Any]
    started_utc: str | None
    duration_ms: float | None
    resolved_model: str | None = None
    api: Api | None = None
    upstream: str | None = None
    client: str | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    finish_reason: str | None = None
    whole_input: bool = True


# A request with several answers has one exchange, which names the turn of the first.
_TURN = """
select turns.thread_id, turns.model, turns.resolved_model, turns.parent_message_hash, turns.tip_message_hash,
    schemas.content as schema, turns.options_json, turns.input_tokens, turns.output_tokens, turns.token_details,
    turns.datetime_utc, turns.response_json, coalesce(exchanges.duration_ms, turns.duration_ms) as duration_ms,
    exchanges.id as exchange_id, exchanges.api, exchanges.upstream, exchanges.client, exchanges.status,
    exchanges.request_headers, exchanges.first_byte_ms, exchanges.first_token_ms, exchanges.finish_reason
from turns
left join schemas on schemas.id = turns.schema_id
left join llmproxy_exchanges as exchanges on exchanges.id = coalesce(
    (select exchange_id from llmproxy_turns where turn_id = turns.id),
    (select id from llmproxy_exchanges where turn_id = turns.id)
)
where turns.id = ?
"""


def read_turn(database: sqlite3.Connection, turn_id: str) -> CapturedTurn | None:
    """The turn of this id; None where there is none. The connection may be read-only."""
    cursor = database.execute(_TURN, [turn_id])
    values = cursor.fetchone()
    if values is None:
        return None
    row = dict(zip((column[0] for column in cursor.description), values, strict=True))
    reader = TurnReader(database)
    hashes = reader.chain(row["tip_message_hash"])
    messages = reader.messages(hashes)
    asked = len(reader.chain(row["parent_message_hash"]))
    options = json.loads(row["options_json"] or "{}")
    # A pointer at what the provider kept for a while, in Messages. What it points at is in the input.
    thread = options.pop("thread", None) if row["api"] == "messages" else None
    kept_elsewhere = row["exchange_id"] is not None and _kept_elsewhere(database, turn_id, row["response_json"], thread)
    return CapturedTurn(
        id=turn_id,
        thread_id=row["thread_id"],
        model=row["model"],
        resolved_model=row["resolved_model"],
        input=tuple(messages[hash] for hash in hashes[:asked]),
        output=tuple(messages[hash] for hash in hashes[asked:]),
        tools=read_tools(database, turn_id),
        schema=json.loads(row["schema"]) if row["schema"] else None,
        options=options,
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        token_details=json.loads(row["token_details"] or "{}"),
        started_utc=row["datetime_utc"],
        duration_ms=row["duration_ms"],
        api=row["api"],
        upstream=row["upstream"],
        client=row["client"],
        status=row["status"],
        headers=tuple((name, value) for name, value in json.loads(row["request_headers"] or "[]")),
        first_byte_ms=row["first_byte_ms"],
        first_token_ms=row["first_token_ms"],
        finish_reason=row["finish_reason"],
        whole_input=not kept_elsewhere,
    )


def _kept_elsewhere(db: sqlite3.Connection, turn_id: str, response_json: str | None, thread: Any) -> bool:
    """Whether the request pointed at a history that we do not have (Responses: `previous_response_id`; Messages: a
    `thread` that is continued)."""
    response = json.loads(response_json) if response_json else None
    is_response = isinstance(response, dict) and (response.get("previous_response_id") or response.get("conversation"))
    if not is_response and not (isinstance(thread, dict) and thread.get("type") == "continue"):
        return False
    row = db.execute("select parent_turn_id from llmproxy_turns where turn_id = ?", [turn_id]).fetchone()
    return row is None or row[0] is None


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
