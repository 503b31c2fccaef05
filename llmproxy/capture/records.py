"""The records of a segment, and what an exchange is made of."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from llmproxy.capture.exchange import OUTCOMES, Exchange, Outcome

LINE = re.compile(rb"@([a-z_]{1,32}) ([0-9a-z]{26}) (\d{1,20}) (\d{1,12}) ([0-9a-f]{8})\n")
LONGEST_LINE = 128

Span = tuple[int, int, int]
"""A record's microseconds, and where its payload lies in the segment: offset and length."""


@dataclass(slots=True)
class Pending:
    """An exchange whose records have been seen so far: where each lies in the segment."""

    first: int
    started: float
    request: Span  # microseconds, offset, length
    request_body: list[Span] = field(default_factory=list)
    response: Span | None = None
    response_body: list[Span] = field(default_factory=list)
    end: Span | None = None
    last_us: int = 0
    until: int = 0  # where the last of its records ends


def exchange_of(id: str, pending: Pending, payload: Callable[[Span], bytes]) -> Exchange:
    """The exchange that lies in these records; `payload` reads one.

    Raises `ValueError`, `KeyError` or `IndexError` for records that are whole but make no sense.
    """
    if not pending.request[2]:
        raise ValueError("its request lies in a damaged part of the segment")
    ours, _, http = payload(pending.request).partition(b"\n\n")
    fields = _fields(ours)
    request_line, _, header_text = http.partition(b"\n")
    method, _, rest = request_line.partition(b" ")
    outcome: Outcome = "interrupted"
    error = None
    request_bytes = request_kept = sum(r[2] for r in pending.request_body)
    response_bytes = response_kept = sum(r[2] for r in pending.response_body)
    duration = None
    if pending.end is not None:
        end = _fields(payload(pending.end))
        outcome = _outcome(end["outcome"])
        error = end.get("error")
        duration = pending.end[0]
        request_bytes, kept = _two_numbers(end["request_bytes"])
        response_bytes, kept_of_response = _two_numbers(end["response_bytes"])
        if (kept, kept_of_response) != (request_kept, response_kept):
            lost = kept + kept_of_response - request_kept - response_kept
            error = f"{lost} bytes are missing from the spool" + (f"; {error}" if error else "")
    status = None
    response_headers: tuple[tuple[bytes, bytes], ...] = ()
    if pending.response is not None:
        status_line, _, text = payload(pending.response).partition(b"\n")
        status = int(status_line.split(b" ")[1])
        response_headers = _headers(text)
    return Exchange(
        id=id,
        upstream=fields["upstream"],
        method=method.decode("latin-1"),
        path=rest.removesuffix(b" HTTP/1.1").decode("latin-1"),
        client=fields.get("client"),
        started=float(fields["started"]),
        request_headers=_headers(header_text),
        request_body=b"".join(payload(r) for r in pending.request_body),
        status=status,
        response_headers=response_headers,
        response_body=[(r[0], payload(r)) for r in pending.response_body],
        outcome=outcome,
        error=error,
        duration_us=duration,
        request_bytes=request_bytes,
        response_bytes=response_bytes,
        request_truncated=request_kept < request_bytes,
        response_truncated=response_kept < response_bytes,
    )


def is_whole(line: re.Match[bytes], block: bytes) -> bool:
    """Whether the record of `line` in `block` is all there and as it was written."""
    start, length = line.end(), int(line[4])
    if block[start + length : start + length + 1] != b"\n":
        return False
    written = line[0][: -len("01234567\n")]
    return crc32(memoryview(block)[start : start + length], crc32(written)) == int(line[5], 16)


def started_of(payload: bytes) -> float:
    try:
        return float(payload.partition(b"\n")[0].removeprefix(b"started: "))
    except ValueError:
        return 0.0


def _fields(text: bytes) -> dict[str, str]:
    pairs = (line.partition(b": ") for line in text.split(b"\n"))
    return {name.decode(): value.decode("utf-8", "replace") for name, _, value in pairs}


def _headers(text: bytes) -> tuple[tuple[bytes, bytes], ...]:
    pairs = (line.partition(b": ") for line in text.split(b"\n") if line)
    return tuple((name, value) for name, _, value in pairs)


def _outcome(text: str) -> Outcome:
    for outcome in OUTCOMES:
        if outcome == text:
            return outcome
    raise ValueError(f"unknown outcome {text!r}")


def _two_numbers(text: str) -> tuple[int, int]:
    first, second = text.split(" ")
    return int(first), int(second)
