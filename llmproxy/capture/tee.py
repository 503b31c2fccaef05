"""The tee: keeps a copy of an exchange's bytes while they pass, for the spool."""

import time
from typing import NamedTuple

from llmproxy.capture.back_references import Body
from llmproxy.capture.exchange import ExchangeIds, Outcome
from llmproxy.capture.spool import Segment, SpoolError, SpoolWriter
from llmproxy.headers import Headers, SecretNames, redact_target
from llmproxy.metrics import Metrics


class RequestHead(NamedTuple):
    """What is known of a request before its body. `target` is the client's path and query, as bytes."""

    upstream: str
    client: str | None
    method: str
    target: bytes
    headers: Headers


class Tee:
    """Records exchanges, or, without a spool, only counts them.

    - `max_body_bytes`: of each body, what is kept.
    - `redact`: header names, in lower case, to redact besides the built-in ones.
    - `required`: an exchange that cannot be recorded is not to end well (`Recording.durable`).
    """

    def __init__(
        self,
        spool: SpoolWriter | None,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        redact: frozenset[bytes] = frozenset(),
        required: bool = False,
    ) -> None:
        self.spool = spool
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.secret_names = SecretNames(redact)
        self.required = required
        self.ids = ExchangeIds()

    def begin(self, head: RequestHead) -> "Recording":
        """Start the recording of an exchange. Raises `SpoolError` where it cannot be written."""
        if self.spool is None:
            return Recording(self, head, None)
        segment = self.spool.begin()
        recording = Recording(self, head, segment)
        recording.write_head(head)
        return recording

    def begin_unrecorded(self, head: RequestHead) -> "Recording":
        """An exchange that is only counted, because the spool cannot take it."""
        return Recording(self, head, None)


class Recording:
    """One exchange while it passes. `end` is write-once: the first end wins."""

    __slots__ = (
        "_failures",
        "_head",
        "_id",
        "_request_body",
        "_request_kept",
        "_response_kept",
        "_segment",
        "_started",
        "_tee",
        "outcome",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(self, tee: Tee, head: RequestHead, segment: Segment | None) -> None:
        self._tee = tee
        self._head = head
        self._segment = segment
        self._failures = segment.failures if segment is not None else 0
        self._started = time.monotonic_ns()
        self._id = tee.ids.new().encode()
        self._request_body: Body | None = None
        self._request_kept = 0
        self._response_kept = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.status: int | None = None
        self.outcome: Outcome | None = None
        tee.metrics.began()

    def write_head(self, head: RequestHead) -> None:
        target = redact_target(head.target)
        client = b"client: %b\n" % head.client.encode() if head.client is not None else b""
        # The moment that the monotonic clock counts from: the reader sorts by the sum of the two.
        seconds, microseconds = divmod((time.time_ns() - time.monotonic_ns() + self._started) // 1000, 1_000_000)
        lines = [
            b"started: %d.%06d\nupstream: %b\n%b\n%b %b HTTP/1.1"
            % (seconds, microseconds, head.upstream.encode(), client, head.method.encode(), target)
        ]
        lines += self._redacted(head.headers)
        self._append(b"request", b"\n".join(lines))

    async def flushed(self) -> None:
        """Write what is recorded so far, together with others who ask in the same moment."""
        if self._segment is not None and self._tee.spool is not None:
            await self._tee.spool.flushed(self._segment)

    def request_written(self) -> bool:
        """Put what is known of the request on disk, before the upstream gets it. False where that failed."""
        segment, spool = self._segment, self._tee.spool
        if segment is None or spool is None:
            return True
        # The request may have been lost before: a slow or a large body has it written by the way.
        if spool.flush(segment) and segment.failures == self._failures:
            return True
        self._segment = None
        spool.release(segment)
        return False

    def request_body(self, piece: bytes) -> None:
        self.request_bytes += len(piece)
        spool = self._tee.spool
        if self._segment is not None and spool is not None and piece:
            piece = piece[: self._tee.max_body_bytes - self._request_kept]
            if piece:
                self._request_kept += len(piece)
                self._request_body = spool.append_request_body(
                    self._segment, self._id, self._elapsed_us(), piece, self._request_body
                )

    def response(self, status: int, headers: Headers) -> None:
        self.status = status
        if self._segment is not None:
            lines = [b"HTTP/1.1 %d" % status]
            lines += self._redacted(headers)
            self._append(b"response", b"\n".join(lines))

    def response_body(self, piece: bytes) -> None:
        self.response_bytes += len(piece)
        if self._segment is not None and piece:
            piece = piece[: self._tee.max_body_bytes - self._response_kept]
            if piece:
                self._response_kept += len(piece)
                self._append(b"response_body", piece)

    async def complete(self) -> None:
        """The response came to its end. When this returns the exchange is as safe as the configuration asks: written,
        or on the disk. Raises `SpoolError` as `durable` does."""
        segment, spool = self._segment, self._tee.spool
        if self.outcome is None and segment is not None and spool is not None:
            self._end("complete", None)
            try:
                await spool.flushed(segment)
            finally:
                spool.release(segment)
            await self.durable()
        else:
            self.end("complete")

    def end(self, outcome: Outcome, error: str | None = None) -> None:
        """How the exchange ended; written when this returns."""
        if self.outcome is not None:
            return
        self._end(outcome, error)
        segment, spool = self._segment, self._tee.spool
        if segment is not None and spool is not None:
            spool.flush(segment)
            spool.release(segment)

    def _end(self, outcome: Outcome, error: str | None) -> None:
        self.outcome = outcome
        if self._segment is not None:
            lines = [
                b"outcome: " + outcome.encode(),
                b"request_bytes: %d %d" % (self.request_bytes, self._request_kept),
                b"response_bytes: %d %d" % (self.response_bytes, self._response_kept),
            ]
            if error:
                lines.append(b"error: " + " ".join(error.split()).encode("utf-8", "replace"))
            self._append(b"end", b"\n".join(lines))
        self._tee.metrics.ended(
            self._head.upstream,
            outcome,
            self.status,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            microseconds=self._elapsed_us(),
        )

    async def durable(self) -> None:
        """After `end`: wait for the disk, where the configuration asks for it.

        Raises `SpoolError` where recording is required and records of the exchange were, or may have been, lost.
        """
        segment, spool = self._segment, self._tee.spool
        if segment is not None and spool is not None:
            await spool.durable(segment)
            if self._tee.required and segment.failures != self._failures:
                raise SpoolError("the exchange could not be recorded")

    def _redacted(self, headers: Headers) -> list[bytes]:
        rules = self._tee.secret_names
        return [name + b": " + (value if (rule := rules[name]) is None else rule(value)) for name, value in headers]

    def _append(self, kind: bytes, payload: bytes) -> None:
        assert self._segment is not None and self._tee.spool is not None
        elapsed = (time.monotonic_ns() - self._started) // 1000
        self._tee.spool.append(self._segment, kind, self._id, elapsed, payload)

    def _elapsed_us(self) -> int:
        return (time.monotonic_ns() - self._started) // 1000


__all__ = ["Recording", "RequestHead", "SpoolError", "Tee"]
