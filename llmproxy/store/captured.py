"""Reading turns back: a captured turn with all that its request held, and how its answer came."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from llm import Tool
from llm.parts import Message
from sqlite_utils import Database

from llmproxy.reconstruct.turn import Api
from llmproxy.store.llm_store import TurnStore
from llmproxy.store.read_only import read_tools


@dataclass(frozen=True, slots=True)
class CapturedTurn:
    """A turn as it is stored.

    - `input`: the whole chain of messages that was asked with; `output`: the answer's.
    - `tools`, `schema`, `options`: as `Turn` has them.
    - `api`, `upstream`, `status`, `headers` (of the request, redacted), the times and `finish_reason` are of its
      exchange; None or empty where `llm` itself logged the turn.
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
    api: Api | None = None
    upstream: str | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    finish_reason: str | None = None
    whole_input: bool = True


def read_turn(db: Database, turn_id: str) -> CapturedTurn | None:
    """The turn with an id; None where there is none."""
    row = _row(
        db.conn,
        "select thread_id, parent_message_hash, tip_message_hash, model, options_json, schema_id, input_tokens,"
        " output_tokens, token_details, duration_ms, datetime_utc, response_json from turns where id = ?",
        turn_id,
    )
    if row is None:
        return None
    chain = TurnStore(db).chain(row["tip_message_hash"])
    before = len(TurnStore(db).chain(row["parent_message_hash"]))
    exchange = _row(
        db.conn,
        "select api, upstream, status, request_headers, first_byte_ms, first_token_ms, duration_ms, finish_reason"
        " from llmproxy_exchanges where id = coalesce("
        "(select exchange_id from llmproxy_turns where turn_id = :id),"
        " (select id from llmproxy_exchanges where turn_id = :id))",
        {"id": turn_id},
    )
    captured = CapturedTurn(
        id=turn_id,
        thread_id=row["thread_id"],
        model=row["model"],
        input=tuple(chain[:before]),
        output=tuple(chain[before:]),
        tools=read_tools(db.conn, turn_id),
        schema=_schema(db.conn, row["schema_id"]),
        options=json.loads(row["options_json"] or "{}"),
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        token_details=json.loads(row["token_details"] or "{}"),
        started_utc=row["datetime_utc"],
        duration_ms=row["duration_ms"],
    )
    if exchange is None:
        return captured
    return _with_exchange(captured, exchange, whole=not _kept_elsewhere(db.conn, turn_id, row["response_json"]))


def _with_exchange(captured: CapturedTurn, exchange: Mapping[str, Any], *, whole: bool) -> CapturedTurn:
    headers = json.loads(exchange["request_headers"] or "[]")
    return replace(
        captured,
        api=cast(Api | None, exchange["api"]),
        upstream=exchange["upstream"],
        status=exchange["status"],
        headers=tuple((name, value) for name, value in headers),
        first_byte_ms=exchange["first_byte_ms"],
        first_token_ms=exchange["first_token_ms"],
        duration_ms=exchange["duration_ms"] if exchange["duration_ms"] is not None else captured.duration_ms,
        finish_reason=exchange["finish_reason"],
        whole_input=whole,
    )


def _kept_elsewhere(db: sqlite3.Connection, turn_id: str, response_json: str | None) -> bool:
    """Whether the request pointed at a history that we do not have (Responses: `previous_response_id`)."""
    response = json.loads(response_json) if response_json else None
    if not isinstance(response, dict) or not (response.get("previous_response_id") or response.get("conversation")):
        return False
    row = db.execute("select parent_turn_id from llmproxy_turns where turn_id = ?", [turn_id]).fetchone()
    return row is None or row[0] is None


def _schema(db: sqlite3.Connection, schema_id: str | None) -> Mapping[str, Any] | None:
    row = db.execute("select content from schemas where id = ?", [schema_id]).fetchone()
    return json.loads(row[0]) if row is not None else None


def _row(db: sqlite3.Connection, sql: str, parameters: Any) -> dict[str, Any] | None:
    cursor = db.execute(sql, parameters if isinstance(parameters, Mapping) else [parameters])
    row = cursor.fetchone()
    return dict(zip((column[0] for column in cursor.description), row, strict=True)) if row is not None else None
