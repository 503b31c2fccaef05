"""What is sent for a captured answer: its own bytes, or the events or the object made anew from what they said."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmproxy.headers import REDACTED, Header, get, response_headers
from llmproxy.inprocess.replay_events import events_of
from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.store.exchanges import REPLAY_HEADER
from llmproxy.store.replay_answer import CapturedAnswer


class CannotReplay(Exception):
    """The answer is known and not enough of it was kept. The message says what to set."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send: each piece of the body with seconds after the request; `cut`: then the connection breaks off."""

    status: int
    headers: list[Header]
    pieces: tuple[tuple[float, bytes], ...]
    cut: bool = False


def reply(answer: CapturedAnswer, *, stream: bool, usage: bool, accepts: bytes) -> Reply:
    """What to send to a request that wants a `stream` or none, with or without `usage` at its end.

    `accepts` is its `Accept-Encoding`. Raises `CannotReplay`.
    """
    if answer.pieces is not None and (answer.stream == stream or answer.response_json is None):
        return _raw(answer, accepts)
    if answer.response_json is None:
        raise CannotReplay(
            f"the answer was captured as exchange {answer.id}, but neither its bytes nor its response object were kept;"
            " set capture.raw: all and capture it again"
        )
    headers = _headers(answer, leave_out=(b"content-length", b"content-encoding", b"content-type"))
    if stream and answer.status < 400:
        # A stream that was captured had its usage only if it was asked for; where it comes from, the provider said it.
        events = events_of(answer.api, answer.response_json, usage=usage or answer.stream)
        if events is None:
            raise CannotReplay(f"exchange {answer.id} is of the API {answer.api}, which does not stream")
        headers.insert(0, (b"content-type", b"text/event-stream; charset=utf-8"))
        return Reply(answer.status, headers, tuple(_spread(events, answer)))
    body = json.dumps(answer.response_json, ensure_ascii=False).encode("utf-8", "surrogatepass")
    headers[:0] = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Reply(answer.status, headers, ((answer.duration_ms / 1000, body),))


def _raw(answer: CapturedAnswer, accepts: bytes) -> Reply:
    assert answer.pieces is not None
    pieces: Iterable[tuple[float, bytes]] = ((at / 1_000_000, piece) for at, piece in answer.pieces)
    codings = codings_of(answer.headers)
    accepted = {coding.partition(b";")[0].strip().lower() for coding in accepts.split(b",")}
    if all(coding.encode() in accepted or b"*" in accepted for coding in codings):
        return Reply(answer.status, _headers(answer), tuple(pieces), answer.cut)
    # Another program than the one that was captured: it would not understand the coding.
    decoder = ContentDecoder(codings, "captured body")
    decoded = [(at, decoder.feed(piece)) for at, piece in pieces]
    decoded.append((decoded[-1][0] if decoded else 0.0, decoder.finish()))
    headers = _headers(answer, leave_out=(b"content-length", b"content-encoding"))
    return Reply(answer.status, headers, tuple((at, piece) for at, piece in decoded if piece), answer.cut)


def _headers(answer: CapturedAnswer, leave_out: tuple[bytes, ...] = ()) -> list[Header]:
    kept = [
        (name, value)
        for name, value in response_headers(answer.headers, answer.status)
        if name.lower() not in leave_out and value != REDACTED
    ]
    if get(kept, REPLAY_HEADER) is None:
        kept.append((REPLAY_HEADER, answer.id.encode()))
    return kept


def _spread(events: list[bytes], answer: CapturedAnswer) -> Iterator[tuple[float, bytes]]:
    """The events in even steps from the first token to the end: when each came is known of raw bytes only."""
    begin, end = answer.first_token_ms / 1000, max(answer.duration_ms, answer.first_token_ms) / 1000
    for number, event in enumerate(events):
        yield begin + (end - begin) * number / max(len(events) - 1, 1), event
