"""`llmproxy reingest`: reads again what was kept raw, after an upgrade has learned to understand more of it."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlite_utils import Database

from llmproxy.capture.exchange import Exchange, Outcome
from llmproxy.config import CaptureConfig
from llmproxy.headers import Header
from llmproxy.ingest import read
from llmproxy.store.open_database import open_database
from llmproxy.store.recorder import DatabaseRecorder
from llmproxy.store.selection import parse_since


@dataclass(frozen=True, slots=True)
class Reingested:
    """How many exchanges were read again, how many became turns by it, and how many still do not make one."""

    read: int
    new_turns: int
    without_turn: int


def reingest(capture: CaptureConfig, since: str | None) -> Reingested:
    """Read again the exchanges whose raw bytes are in the database, begun since a time (ISO 8601, UTC, or `7d`).

    Raises `ValueError` for a time that is none, `sqlite3.Error` for a database that cannot be written.
    """
    earliest = parse_since(since) if since else ""
    db = open_database(capture.database_path, full_sync=capture.fsync)
    try:
        recorder = DatabaseRecorder(db, capture.raw)
        ids = [
            row[0]
            for row in db.conn.execute(
                "select id from llmproxy_exchanges where request_body is not null and started_utc >= ? order by id",
                [earliest],
            )
        ]
        results = [_again(db, recorder, id) for id in ids]
    finally:
        db.close()
    return Reingested(
        read=len(results),
        new_turns=sum(not before and after for before, after in results),
        without_turn=sum(not after for _, after in results),
    )


def _again(db: Database, recorder: DatabaseRecorder, id: str) -> tuple[bool, bool]:
    """Whether the exchange had a turn before and has one after."""
    with db.atomic():
        cursor = db.conn.execute("select * from llmproxy_exchanges where id = ?", [id])
        row = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
        exchange = _exchange(row)
        reading = read(exchange)
        recorder.rewrite(exchange, reading)
    after = db.conn.execute("select turn_id from llmproxy_exchanges where id = ?", [id]).fetchone()[0]
    return row["turn_id"] is not None, after is not None


def _exchange(row: dict[str, Any]) -> Exchange:
    body: bytes = row["response_body"] or b""
    pieces, at = [], 0
    for microseconds, length in json.loads(row["response_pieces"] or "[]"):
        pieces.append((microseconds, body[at : at + length]))
        at += length
    outcome: Outcome = row["outcome"]
    if outcome == "error_in_stream":
        outcome = "complete"  # what ingest made of it; the connection had ended well
    truncated = bool(row["truncated"])
    return Exchange(
        id=row["id"],
        upstream=row["upstream"],
        method=row["method"],
        path=row["path"],
        client=row["client"],
        started=datetime.fromisoformat(row["started_utc"]).timestamp(),
        request_headers=_headers(row["request_headers"]),
        request_body=row["request_body"],
        status=row["status"],
        response_headers=_headers(row["response_headers"]),
        response_body=pieces,
        outcome=outcome,
        error=row["error"],
        duration_us=None if row["duration_ms"] is None else round(row["duration_ms"] * 1000),
        request_bytes=row["request_bytes"],
        response_bytes=row["response_bytes"],
        request_truncated=truncated and len(row["request_body"]) < row["request_bytes"],
        response_truncated=truncated and len(body) < row["response_bytes"],
    )


def _headers(text: str | None) -> tuple[Header, ...]:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(text or "[]"))
