"""Exchanges as they passed: raw, and as HAR (http://www.softwareishard.com/blog/har-12-spec/)."""

import base64
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from llmproxy import __version__
from llmproxy.export.redaction import Redaction
from llmproxy.headers import Header, get
from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.reconstruct.turn import NotReconstructed
from llmproxy.store.llm_store import TurnReader

JsonObject = dict[str, Any]
_COLUMNS = (
    "id turn_id thread_id upstream api method path model stream status outcome started_utc first_byte_ms duration_ms"
    " request_bytes response_bytes client request_headers response_headers request_body response_body response_pieces"
)


@dataclass(frozen=True, slots=True)
class PassedExchange:
    """An exchange of the database. Bodies are None where `capture.raw` did not keep them; `response_json` is what the
    response said, as one object."""

    row: JsonObject
    request_headers: Sequence[Header]
    response_headers: Sequence[Header]
    response_json: Any

    @property
    def kept(self) -> bool:
        return self.row["request_body"] is not None


def read_exchange(database: sqlite3.Connection, turn_id: str) -> PassedExchange:
    """The exchange of a turn. Raises `KeyError`."""
    columns = _COLUMNS.split()
    found = database.execute(
        f"select {', '.join(columns)} from llmproxy_exchanges where turn_id = ?", [turn_id]
    ).fetchone()
    if found is None:
        raise KeyError(turn_id)
    row = dict(zip(columns, found, strict=True))
    return PassedExchange(
        row,
        _headers(row["request_headers"]),
        _headers(row["response_headers"]),
        TurnReader(database).response_json(turn_id),
    )


def raw(exchange: PassedExchange, redaction: Redaction) -> JsonObject:
    """A line: what passed, byte for byte. With a redaction bodies are as `_redacted_body` says."""
    row = exchange.row
    line = {name: row[name] for name in ("id", "thread_id", "upstream", "api", "model", "client", "outcome")}
    line["started_utc"] = row["started_utc"]
    line["duration_ms"] = row["duration_ms"]
    if redaction:
        request = {"body": _redacted_body(exchange.request_headers, row["request_body"], None, redaction)}
        said = exchange.response_json
        response = {"body": _redacted_body(exchange.response_headers, row["response_body"], said, redaction)}
    else:
        request = _bytes(row["request_body"])
        response = {**_bytes(row["response_body"]), "pieces": json.loads(row["response_pieces"] or "null")}
    line["request"] = {
        "method": row["method"],
        "path": redaction.text(row["path"]),
        "headers": redaction.value(json.loads(row["request_headers"])),
        **request,
    }
    line["response"] = {
        "status": row["status"],
        "headers": redaction.value(json.loads(row["response_headers"])),
        **response,
    }
    return line


def har_entry(exchange: PassedExchange, redaction: Redaction) -> JsonObject:
    """An entry of a HAR log. Where bodies were not kept, the response is the object that it said."""
    row = exchange.row
    host = (get(exchange.request_headers, b"host") or b"127.0.0.1").decode("latin-1")
    url = redaction.text(f"http://{host}{row['path']}")
    request_text = _text(exchange.request_headers, row["request_body"], None, redaction)
    streamed = row["response_body"] is None or (redaction and row["stream"])
    said = exchange.response_json if streamed else None
    response_text = _text(exchange.response_headers, row["response_body"], said, redaction)
    wait = row["first_byte_ms"] or 0
    total = row["duration_ms"] or wait
    mime = "application/json" if said is not None else _value(exchange.response_headers, b"content-type")
    post = {"mimeType": _value(exchange.request_headers, b"content-type"), "text": request_text}
    return {
        "startedDateTime": row["started_utc"],
        "time": total,
        "request": {
            "method": row["method"],
            "url": url,
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": _har_headers(row["request_headers"], redaction),
            "queryString": [{"name": name, "value": value} for name, value in parse_qsl(urlsplit(url).query)],
            **({"postData": post} if request_text is not None else {}),
            "headersSize": -1,
            "bodySize": row["request_bytes"],
        },
        "response": {
            "status": row["status"] or 0,
            "statusText": _phrase(row["status"]),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": _har_headers(row["response_headers"], redaction),
            "content": {
                "size": len((response_text or "").encode()),
                "mimeType": mime,
                **({"text": response_text} if response_text is not None else {}),
                **({"comment": "put together from the stream"} if said is not None and row["stream"] else {}),
            },
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": row["response_bytes"],
        },
        "cache": {},
        "timings": {"send": 0, "wait": wait, "receive": max(total - wait, 0)},
        "comment": f"llmproxy exchange {row['id']} to {row['upstream']}",
    }


def har_head() -> tuple[str, str]:
    """What goes before and after the entries."""
    creator = json.dumps({"name": "llmproxy", "version": __version__})
    return '{"log": {"version": "1.2", "creator": ' + creator + ', "entries": [', "]}}"


def _bytes(body: bytes | None) -> JsonObject:
    if body is None:
        return {"body": None}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "encoding": "base64"}


def _redacted_body(headers: Sequence[Header], body: bytes | None, said: Any, redaction: Redaction) -> Any:
    """A body as JSON or text without what is redacted.

    What a stream says is split over its events, where no pattern would find it: the object that it said stands for it.
    What is no text is left out.
    """
    if said is not None:
        return redaction.value(said)
    if body is None:
        return None
    if (get(headers, b"content-type") or b"").lower().startswith(b"text/event-stream"):
        return None
    decoded = _decoded(headers, body)
    if decoded is None:
        return None
    try:
        return redaction.value(json.loads(decoded))
    except ValueError:
        return redaction.text(decoded)


def _text(headers: Sequence[Header], body: bytes | None, said: Any, redaction: Redaction) -> str | None:
    if not redaction and said is None:
        return None if body is None else _decoded(headers, body)
    shown = _redacted_body(headers, body, said, redaction)
    return shown if shown is None or isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def _decoded(headers: Sequence[Header], body: bytes) -> str | None:
    """The body as text; None where it is none."""
    try:
        decoder = ContentDecoder(codings_of(headers), "body")
        return (decoder.feed(body) + decoder.finish()).decode()
    except (NotReconstructed, UnicodeDecodeError):
        return None


def _headers(text: str | None) -> list[Header]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(text or "[]")]


def _har_headers(text: str, redaction: Redaction) -> list[JsonObject]:
    return [{"name": name, "value": redaction.text(value)} for name, value in json.loads(text or "[]")]


def _value(headers: Sequence[Header], name: bytes) -> str:
    return (get(headers, name) or b"").decode("latin-1")


def _phrase(status: int | None) -> str:
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return ""
