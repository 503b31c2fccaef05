"""The body of a response: undone codings, told whether it is a stream, and handed to the API's machine."""

import dataclasses
import re
from typing import Any

from llmproxy.reconstruct.decoding import ContentDecoder
from llmproxy.reconstruct.http_error import read_http_error
from llmproxy.reconstruct.json_values import Notes, parse
from llmproxy.reconstruct.machine import ResponseMachine, ResponseReading
from llmproxy.reconstruct.sse import EventStream, ServerSentEvent
from llmproxy.reconstruct.text import storable
from llmproxy.reconstruct.turn import Api, NotReconstructed

# Their last event says that it is the last.
_WITH_TERMINAL_EVENT = ("responses", "messages")

_STREAM_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
# What may stand before them: white space, the mark of UTF-8. Taken away as it comes, however much of it there is.
_BEFORE = re.compile(rb"(?:\xef\xbb\xbf|\s)+")
_DONE = object()


class NoResponse:
    """What is read where no response began, and the base of what reads one."""

    is_stream = False
    first_token_us: int | None = None

    def feed(self, data: bytes, at: int) -> None:
        """Take a piece of the body."""

    def finish(self, *, complete: bool) -> ResponseReading:
        return ResponseReading()


class Failure(NoResponse):
    """A response whose status says that there is no answer."""

    def __init__(self, decoder: ContentDecoder, status: int, notes: Notes) -> None:
        self._decoder = decoder
        self._status = status
        self._notes = notes
        self._body: list[bytes] = []

    def feed(self, data: bytes, at: int) -> None:
        self._body.append(self._decoder.feed(data))

    def finish(self, *, complete: bool) -> ResponseReading:
        self._body.append(self._decoder.finish())
        if self._decoder.trouble is not None:
            self._notes.add(self._decoder.trouble)
        error = read_http_error(self._status, b"".join(self._body))
        return ResponseReading(response_json=error.body, error=error.message, finished=complete)


class Answer(NoResponse):
    """A successful response: an event stream or one JSON body, whatever its content type says."""

    def __init__(
        self, decoder: ContentDecoder, machine: ResponseMachine, api: Api, is_stream: bool, notes: Notes
    ) -> None:
        self.is_stream = is_stream
        self.first_token_us = None
        self._decoder = decoder
        self._machine = machine
        self._api = api
        self._notes = notes
        self._events = EventStream()
        self._is_settled = False  # whether it is a stream
        self._body: list[bytes] = []  # what came before that was settled, and an unstreamed body
        self._is_done = False

    def feed(self, data: bytes, at: int) -> None:
        self._take(self._decoder.feed(data), at)

    def finish(self, *, complete: bool) -> ResponseReading:
        self._take(self._decoder.finish(), 0)
        if self._decoder.trouble is not None:
            self._notes.add(self._decoder.trouble)
            complete = False
        if self.is_stream:
            self._finish_stream(complete)
        else:
            self._finish_whole(complete)
        reading = self._machine.finish()
        if complete and self._api != "embeddings" and not reading.outputs and reading.error is None:
            seen = storable((*self._notes, *reading.notes), Notes())
            raise NotReconstructed("response has no answer", ", ".join(seen))
        if self.is_stream and not (complete or self._is_done or self._api in _WITH_TERMINAL_EVENT):
            # A finish reason alone is not the end of the response: the usage may follow.
            return dataclasses.replace(reading, finished=False)
        return reading

    def _take(self, data: bytes, at: int) -> None:
        if self._is_settled and self.is_stream:
            self._read_events(self._events.feed(data), at)
            return
        if self._is_settled:
            self._body.append(data)
            return
        begun = _without_prefix(b"".join((*self._body, data)))
        self._body = [begun] if begun else []
        if len(begun) >= max(map(len, _STREAM_STARTS)) or begun[:1] in (b"{", b"["):
            self._settle(begun, at)

    def _settle(self, begun: bytes, at: int) -> None:
        """Servers and gateways that mistake the content type are common; none mistakes the first bytes."""
        self._is_settled = True
        if begun.startswith((b"{", b"[")):
            self.is_stream = False
        elif begun.startswith(_STREAM_STARTS):
            self.is_stream = True
        if self.is_stream:
            self._body = []
            self._read_events(self._events.feed(begun), at)

    def _finish_stream(self, complete: bool) -> None:
        if self._body:  # too short to have been settled
            self._read_events(self._events.feed(b"".join(self._body)), 0)
        cut = Notes()
        self._read_events(self._events.finish(), 0, self._notes if complete else cut)

    def _finish_whole(self, complete: bool) -> None:
        body = b"".join(self._body)
        try:
            value = parse(body, "response body")
            if not isinstance(value, dict):
                raise NotReconstructed("response body is not an object")
        except NotReconstructed:
            if complete:
                raise
            self._notes.add("response body was cut")
            return
        self._machine.whole(value)

    def _read_events(self, events: list[ServerSentEvent], at: int, notes: Notes | None = None) -> None:
        for event in events:
            for data in _values(event, notes or self._notes):
                if data is _DONE:
                    self._is_done = True
                    self._machine.done()
                elif self._machine.event(event.name, data) and self.first_token_us is None:
                    self.first_token_us = at


def _without_prefix(body: bytes) -> bytes:
    before = _BEFORE.match(body)
    return body[before.end() :] if before else body


def _values(event: ServerSentEvent, notes: Notes) -> list[Any]:
    """What the data of an event says: JSON, or the `[DONE]` that ends a stream."""
    text = event.data.strip()
    if not text:  # a keep-alive
        return []
    if text == "[DONE]":
        return [_DONE]
    try:
        return [parse(text, "event data")]
    except NotReconstructed as error:
        if "\n" in text:  # servers that end an event by one newline
            return [value for line in text.split("\n") for value in _values(ServerSentEvent(event.name, line), notes)]
        if event.name == "error":
            return [{"error": text}]
        notes.add(error.reason)
        return []
