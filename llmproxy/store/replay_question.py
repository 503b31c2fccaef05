"""What a request asks, read from its bytes: the key that replay finds it by, and text that shows where two differ.

A call of a model is known by what it means (`request_key`), anything else by its method, its place and its body.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.headers import Header, redact_query
from llmproxy.reconstruct import Reconstruction, api_of
from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.reconstruct.raw_bodies import without_credentials_of
from llmproxy.reconstruct.turn import NotReconstructed, Turn
from llmproxy.store.request_key import Asked, counting, message_digest, normal_text, request_key


@dataclass(frozen=True, slots=True)
class Question:
    """A request: the `key` it is found by, whether it wants a `stream` (and the usage at its end), and what it asks as
    `lines` of text. `api` is None for what is no model call."""

    key: bytes
    api: str | None
    stream: bool
    stream_usage: bool
    place: str
    lines: Sequence[str]


def read_question(
    method: str,
    path: str,
    headers: Sequence[Header],
    body: bytes,
    *,
    match: Collection[str],
    whole: Callable[[Turn], Turn],
) -> Question:
    """What a request asks.

    - `path`: with its query, as an upstream is asked for it; `body`: as it was sent, maybe compressed.
    - `match`: the options that count. `whole`: gives a turn with what its request only points at.
    """
    place, _, query = path.partition("?")
    query = redact_query(query.encode("latin-1")).decode("latin-1")
    place = f"{place}?{query}" if query else place
    # What was captured has no credentials, so that who comes with another key asks the same.
    decoded = without_credentials_of(headers, _decoded(headers, body))
    try:
        fields = json.loads(decoded)
    except ValueError:
        fields = None
    api = api_of(method, path)
    turn = _turn(api, headers, body) if api is not None else None
    stream = isinstance(fields, dict) and fields.get("stream") is True
    options = fields.get("stream_options") if isinstance(fields, dict) else None
    usage = isinstance(options, dict) and options.get("include_usage") is True
    if api is None or turn is None or turn.conversation is not None:
        lines = [f"{method} {place}", *_body_lines(fields, decoded)]
        boundary = _boundary(headers)  # made up anew for each request (RFC 2046 section 5.1.1)
        said = json.dumps(fields, sort_keys=True).encode() if fields is not None else decoded
        said = said.replace(boundary, b"boundary") if boundary else said
        key = hashlib.blake2b(f"{method} {place}\n".encode() + said, digest_size=16).digest()
        return Question(key, api, stream, usage, place, lines)
    turn = whole(turn)
    model = turn.model or "unknown"  # as it is stored
    asked = Asked(api, model, turn.tools, turn.schema, counting(turn.options, match))
    key = request_key(asked, map(message_digest, turn.input))
    return Question(key, api, stream, usage, place, normal_text(asked, turn.input))


def _turn(api: Any, headers: Sequence[Header], body: bytes) -> Turn | None:
    try:
        return Reconstruction(api, request_headers=headers, request_body=body).finish(complete=False)
    except NotReconstructed:
        return None


def _decoded(headers: Sequence[Header], body: bytes) -> bytes:
    try:
        decoder = ContentDecoder(codings_of(headers), "request body")
        return decoder.feed(body) + decoder.finish()
    except NotReconstructed:
        return body


def _body_lines(fields: Any, body: bytes) -> list[str]:
    if fields is not None:
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False).splitlines()
    return body[:10_000].decode("utf-8", "replace").splitlines()


def _boundary(headers: Iterable[Header]) -> bytes:
    for name, value in headers:
        if name.lower() == b"content-type" and b"boundary=" in value:
            return value.partition(b"boundary=")[2].partition(b";")[0].strip(b'" ')
    return b""
