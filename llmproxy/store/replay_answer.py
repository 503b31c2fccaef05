"""The captured answer of an exchange: its bytes where they were kept, else the object they said."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from llmproxy.headers import Header
from llmproxy.store.llm_store import TurnReader


@dataclass(frozen=True, slots=True)
class CapturedAnswer:
    """What was answered, and when.

    - `pieces`: the body as it came, still encoded, each with microseconds from the exchange's start; None where
      `capture.raw` did not keep it.
    - `response_json`: the object that it said, as it would have come unstreamed; None where it made no turn.
    - `cut`: the upstream broke off after the last piece.
    - times in milliseconds from the exchange's start.
    """

    id: str
    api: str | None
    status: int
    headers: tuple[Header, ...]
    stream: bool
    pieces: tuple[tuple[int, bytes], ...] | None
    response_json: Any
    cut: bool
    first_token_ms: float
    duration_ms: float


def read_answer(database: sqlite3.Connection, exchange_id: str) -> CapturedAnswer:
    """The answer of an exchange that has one. Raises `KeyError` where the exchange is gone."""
    row = database.execute(
        "select turn_id, api, status, response_headers, stream, outcome, response_body, response_pieces,"
        " coalesce(first_token_ms, first_byte_ms, 0), coalesce(duration_ms, 0)"
        " from llmproxy_exchanges where id = ?",
        [exchange_id],
    ).fetchone()
    if row is None:
        raise KeyError(exchange_id)
    turn_id, api, status, headers, stream, outcome, body, lengths, first_token_ms, duration_ms = row
    return CapturedAnswer(
        id=exchange_id,
        api=api,
        status=status,
        headers=tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(headers)),
        stream=bool(stream),
        pieces=None if body is None else _pieces(body, lengths),
        response_json=TurnReader(database).response_json(turn_id) if turn_id else None,
        cut=outcome == "upstream_cut",
        first_token_ms=first_token_ms,
        duration_ms=duration_ms,
    )


def _pieces(body: bytes, lengths: str | None) -> tuple[tuple[int, bytes], ...]:
    pieces, at = [], 0
    for microseconds, length in json.loads(lengths or "[]"):
        pieces.append((microseconds, body[at : at + length]))
        at += length
    return tuple(pieces)
