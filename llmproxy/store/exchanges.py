"""Exchanges as rows of our own table `llmproxy_exchange_rows`, which the view `llmproxy_exchanges` shows."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from llmproxy.capture.exchange import Exchange
from llmproxy.headers import ASK_CLIENT_ID, ASK_USER_ID, VIA, Header, get
from llmproxy.reconstruct.raw_bodies import masked
from llmproxy.reconstruct.turn import Turn

# On an answer that the replay upstream gives: the id of the exchange that it was recorded in.
REPLAY_HEADER = b"x-llmproxy-replay"
# The `reason` of such an exchange: it makes no turn, since the turn is in the database already.
REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class RawBodies:
    """An exchange's bodies without their credentials. `pieces`: microseconds and length of each piece of the response,
    so that it can be replayed as it came. All are None where a credential cannot be taken out; `note` says so."""

    request: bytes | None
    response: bytes | None
    pieces: str | None
    note: str | None = None


def raw_bodies(exchange: Exchange) -> RawBodies:
    """The bodies of an exchange as they may be written."""
    request = masked(exchange.request_headers, exchange.request_body)
    response = masked(exchange.response_headers, b"".join(piece for _, piece in exchange.response_body))
    if request is None or response is None:  # one without the other would be read as an exchange that was cut
        which = "request" if request is None else "response"
        return RawBodies(None, None, None, f"raw bodies not kept: a credential in the {which} cannot be taken out")
    return RawBodies(request, response, json.dumps([[at, len(piece)] for at, piece in exchange.response_body]))


def exchange_row(
    exchange: Exchange,
    *,
    api: str | None,
    turn: Turn | None,
    turn_id: str | None,
    thread_id: str | None,
    reason: str | None,
    bodies: RawBodies | None,
) -> dict[str, Any]:
    """The row of `llmproxy_exchange_rows` for an exchange, without its header fields (`header_sets`).

    - `api`, `turn`: what it was reconstructed as, None where it was not; `reason` says why.
    - `turn_id`, `thread_id`: where the turn was stored, if it was.
    - `bodies`: the raw bodies, where they are kept.
    """
    usage = turn.usage if turn else None
    outcome = exchange.outcome
    if turn is not None and turn.finished:
        if turn.error is not None and turn.stream and outcome == "complete":
            outcome = "error_in_stream"
        elif outcome == "client_gone" and turn.stream:
            # The client had all there was to say and did not wait for the connection's end, as SDKs do after `[DONE]`.
            outcome = "complete"
    elif turn is not None and turn.error is not None and turn.stream and outcome == "complete":
        outcome = "error_in_stream"
    notes = [*(turn.notes if turn else ()), *([bodies.note] if bodies and bodies.note else ())]
    return {
        "id": exchange.id,
        "turn_id": turn_id,
        "thread_id": thread_id,
        "upstream": exchange.upstream,
        "api": api,
        "method": exchange.method,
        "path": exchange.path,
        "model": turn.model if turn else None,
        "stream": int(is_event_stream(exchange)),
        "status": exchange.status,
        "outcome": outcome,
        "error": exchange.error or (turn.error if turn else None),
        "reason": reason,
        "notes": json.dumps(notes) if notes else None,
        "finish_reason": turn.outputs[0].finish_reason if turn and turn.outputs else None,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "token_details": json.dumps(dict(usage.details)) if usage and usage.details else None,
        "truncated": int(exchange.request_truncated or exchange.response_truncated),
        "started_utc": utc(exchange.started),
        "first_byte_ms": _ms(exchange.first_byte_us),
        "first_token_ms": _ms(turn.first_token_us) if turn else None,
        "duration_ms": _ms(exchange.duration_us),
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
        "client": exchange.client,
        "session": turn.session if turn else None,
        **_asked_with(exchange.request_headers),
        "user_agent": _text(get(exchange.request_headers, b"user-agent")),
        "request_body": bodies.request if bodies else None,
        "response_body": bodies.response if bodies else None,
        "response_pieces": bodies.pieces if bodies else None,
    }


def _asked_with(headers: Sequence[Header]) -> dict[str, str | None]:
    via = _text(get(headers, VIA))
    ids = {"ask_client_id": ASK_CLIENT_ID, "ask_user_id": ASK_USER_ID}
    # A program may send such fields by itself; that says nothing.
    sent = {column: get(headers, name) if via else None for column, name in ids.items()}
    return {"via": via, **{column: None if value is None else unquote(value) for column, value in sent.items()}}


def known_exchanges(db: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Which of the exchanges have their row already."""
    found: set[str] = set()
    for at in range(0, len(ids), 500):
        some = ids[at : at + 500]
        marks = ",".join("?" * len(some))
        found.update(row[0] for row in db.execute(f"select id from llmproxy_exchange_rows where id in ({marks})", some))
    return found


def insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    """Insert one row. Plain SQL: sqlite-utils asks for the schema on every insert."""
    columns = ", ".join(row)
    marks = ", ".join("?" * len(row))
    db.execute(f"insert into {table} ({columns}) values ({marks})", list(row.values()))


def is_event_stream(exchange: Exchange) -> bool:
    """Whether the response was an event stream (https://html.spec.whatwg.org/#server-sent-events)."""
    content_type = get(exchange.response_headers, b"content-type") or b""
    return content_type.partition(b";")[0].strip().lower() == b"text/event-stream"


def utc(seconds: float) -> str:
    """Seconds since the epoch as `llm` writes times: ISO 8601 with an offset."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
