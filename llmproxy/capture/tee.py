"""The tee: keeps a copy of an exchange's bytes while they pass, for the spool."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from llmproxy.capture.back_references import SMALLEST_BYTES, Body
from llmproxy.capture.exchange import ExchangeIds, Outcome
from llmproxy.capture.spool import Segment, SpoolError, SpoolWriter
from llmproxy.headers import Headers, ResponseFields, SecretNames, redact_target
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
    - `required`: an exchange that cannot be recorded is refused, or not to end well; else it is counted.
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
        # Shorter bodies go into one record with their heads.
        self.short_body_bytes = min(SMALLEST_BYTES, max_body_bytes)
        self.secret_names = SecretNames(redact)
        self.response_fields = ResponseFields(self.secret_names)
        self.required = required
        self.ids = ExchangeIds()

    def begin(self, head: RequestHead) -> "Recording":
        """Start the recording of an exchange. Raises `SpoolError` where it cannot be written and has to be."""
        return self.begin_text(head.upstream, self.text(head))

    def text(self, head: RequestHead) -> bytes:
        """What is recorded of a request's head, its credentials redacted; for `begin_text`."""
        if self.spool is None:
            return b""
        client = b"client: %b\n" % head.client.encode() if head.client is not None else b""
        lines = [
            b"upstream: %b\n%b\n%b %b HTTP/1.1"
            % (head.upstream.encode(), client, head.method.encode(), redact_target(head.target))
        ]
        lines += [name + b": " + self.secret_names.redacted(name, value) for name, value in head.headers]
        return b"\n".join(lines)

    def begin_text(self, upstream: str, text: bytes, body: bytes = b"") -> "Recording":
        """As `begin`, for a head that is known, and with the body where it is there already."""
        segment = None
        if self.spool is not None:
            try:
                segment = self.spool.begin()
            except SpoolError:
                self.unrecorded()
        recording = Recording(self, upstream, segment)
        recording.request(text, body)
        return recording

    def unrecorded(self) -> None:
        """The spool cannot take an exchange."""
        if self.required:
            raise SpoolError("the spool cannot be written")
        self.metrics.unrecorded += 1


class Recording:
    """One exchange while it passes. `end` is write-once: the first end wins."""

    __slots__ = (
        "_failures",
        "_id",
        "_request_body",
        "_request_kept",
        "_segment",
        "_started",
        "_tee",
        "_upstream",
        "_whole",
        "outcome",
        "request_bytes",
        "response_bytes",
        "status",
    )

    def __init__(self, tee: Tee, upstream: str, segment: Segment | None) -> None:
        self._tee = tee
        self._upstream = upstream
        self._segment = segment
        self._failures = segment.failures if segment is not None else 0
        self._started = time.monotonic_ns()
        self._id = tee.ids.new().encode()
        self._request_body: Body | None = None
        self._request_kept = 0
        self._whole: tuple[bytes, bytes] | None = None  # head and body of the response
        self.request_bytes = 0
        self.response_bytes = 0
        self.status: int | None = None
        self.outcome: Outcome | None = None
        tee.metrics.began()

    def request(self, text: bytes, body: bytes) -> None:
        if self._segment is None:
            self.request_bytes = len(body)
            return
        # The moment that the monotonic clock counts from: the reader sorts by the sum of the two.
        seconds, microseconds = divmod((time.time_ns() - time.monotonic_ns() + self._started) // 1000, 1_000_000)
        if body and len(body) < self._tee.short_body_bytes:
            self.request_bytes = self._request_kept = len(body)
            self._append_request(b"whole_request", b"started: %d.%06d\n%b\n\n%b" % (seconds, microseconds, text, body))
        else:
            self._append_request(b"request", b"started: %d.%06d\n%b" % (seconds, microseconds, text))
            self.request_body(body)

    def when_written(self, callback: Callable[[], None]) -> None:
        """Write what is recorded of the request so far, together with others who ask in the same moment, and call
        back."""
        if self._segment is not None and self._tee.spool is not None:
            self._tee.spool.when_requests_written(self._segment, callback)
        else:
            callback()

    async def written(self) -> None:
        """As `when_written`."""
        await _called_back(self.when_written)

    def request_written(self) -> None:
        """Put what is known of the request on disk, before the upstream gets it. Raises `SpoolError` where that failed
        and has to be."""
        segment, spool = self._segment, self._tee.spool
        # It may have been lost before: a slow or a large body has the head written by the way.
        if segment is None or spool is None:
            return
        if not spool.flush_requests(segment) or segment.failures != self._failures:
            self._segment = None
            spool.release(segment)
            self._tee.unrecorded()

    def request_body(self, piece: bytes) -> None:
        if self.outcome is not None:
            return  # the response was whole before the request: its end is written, and the segment may be closed
        self.request_bytes += len(piece)
        spool = self._tee.spool
        if self._segment is not None and spool is not None and piece:
            piece = piece[: self._tee.max_body_bytes - self._request_kept]
            if piece:
                self._request_kept += len(piece)
                self._request_body = spool.append_request_body(
                    self._segment, self._id, self._elapsed_ns(), piece, self._request_body
                )

    def response(self, status: int, headers: Headers) -> None:
        if self._segment is not None:
            redacted = self._tee.secret_names.redacted
            self.response_lines(status, [name + b": " + redacted(name, value) for name, value in headers])
        else:
            self.status = status

    def response_lines(self, status: int, lines: Sequence[bytes]) -> None:
        """As `response`, for field lines whose credentials are redacted."""
        self.status = status
        if self._segment is not None:
            self._append_response(b"response", b"\n".join((b"HTTP/1.1 %d" % status, *lines)))

    def whole_response(self, status: int, lines: Sequence[bytes], body: bytes) -> None:
        """As `response_lines` and `response_body`, where nothing but the end follows."""
        if self._segment is not None and len(body) < self._tee.short_body_bytes:
            self.status = status
            self.response_bytes = len(body)
            self._whole = b"\n".join((b"HTTP/1.1 %d" % status, *lines)), body
        else:
            self.response_lines(status, lines)
            self.response_body(body)

    def response_body(self, piece: bytes) -> None:
        before = self.response_bytes
        passed = self.response_bytes = before + len(piece)
        segment, tee = self._segment, self._tee
        spool = tee.spool
        if segment is not None and spool is not None:
            if passed > tee.max_body_bytes:
                piece = piece[: max(0, tee.max_body_bytes - before)]
            if piece:
                # Not by `_append_response`: a stream is made of these.
                spool.append_response(segment, b"response_body", self._id, time.monotonic_ns() - self._started, piece)

    async def complete(self) -> None:
        """The response came to its end. When this returns the exchange is as safe as the configuration asks: written,
        or on the disk. Raises `SpoolError` as `durable` does."""
        segment, spool = self._segment, self._tee.spool
        if self.outcome is None and segment is not None and spool is not None:
            self._end("complete", None)
            try:
                await _called_back(partial(spool.when_written, segment))
            finally:
                spool.release(segment)
            await self.durable()
        else:
            self.end("complete")

    def when_complete(self, callback: Callable[[], None]) -> bool:
        """As `complete`, with a call back in place of the waiting; false, and nothing is done, where only `complete`
        will do: it waits for the disk, or raises."""
        segment, spool = self._segment, self._tee.spool
        if segment is None or spool is None:
            self.end("complete")
            callback()
        elif spool.fsync or self._tee.required:
            return False
        else:
            self._end("complete", None)
            spool.when_written(segment, callback)
            spool.release(segment)
        return True

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
            end = b"outcome: %b\nrequest_bytes: %d %d\nresponse_bytes: %d %d" % (
                outcome.encode(),
                self.request_bytes,
                self._request_kept,
                self.response_bytes,
                min(self.response_bytes, self._tee.max_body_bytes),
            )
            if error:
                end += b"\nerror: " + " ".join(error.split()).encode("utf-8", "replace")
            if self._whole is not None:
                self._append_response(b"whole_response", b"%b\n\n%b\n\n%b" % (self._whole[0], end, self._whole[1]))
            else:
                self._append_response(b"end", end)
        self._tee.metrics.ended(
            self._upstream,
            outcome,
            self.status,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            microseconds=self._elapsed_ns() // 1000,
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

    def _append_request(self, kind: bytes, payload: bytes) -> None:
        segment, spool = self._segment, self._tee.spool
        assert segment is not None and spool is not None
        spool.append_request(segment, kind, self._id, self._elapsed_ns(), payload)

    def _append_response(self, kind: bytes, payload: bytes) -> None:
        segment, spool = self._segment, self._tee.spool
        assert segment is not None and spool is not None
        spool.append_response(segment, kind, self._id, self._elapsed_ns(), payload)

    def _elapsed_ns(self) -> int:
        return time.monotonic_ns() - self._started


async def _called_back(when: Callable[[Callable[[], None]], None]) -> None:
    """Wait until `when` calls back."""
    called = asyncio.Event()
    when(called.set)
    await called.wait()


__all__ = ["Recording", "RequestHead", "SpoolError", "Tee"]
