"""The driver: one exchange's bytes in, its turn out."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llm import Tool

from llmproxy.reconstruct import anthropic_messages, chat_completions, completions, embeddings, responses
from llmproxy.reconstruct.credentials import without_credentials
from llmproxy.reconstruct.decoding import ContentDecoder, codings_of
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.machine import RequestReading, ResponseMachine
from llmproxy.reconstruct.response_body import Answer, Failure, NoResponse
from llmproxy.reconstruct.session import session_of
from llmproxy.reconstruct.text import parse_storable, storable
from llmproxy.reconstruct.turn import Api, NotReconstructed, Turn

# The longest first where one ends as another does.
_ENDINGS: tuple[tuple[str, Api], ...] = (
    ("/chat/completions", "chat.completions"),
    ("/completions", "completions"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    ("/embeddings", "embeddings"),
)

_READERS: Mapping[Api, Callable[[Mapping[str, Any]], RequestReading]] = {
    "chat.completions": chat_completions.read_request,
    "completions": completions.read_request,
    "responses": responses.read_request,
    "messages": anthropic_messages.read_request,
    "embeddings": embeddings.read_request,
}

# All events of a piece are in memory at once.
_TOGETHER_BYTES = 64 * 1024


def api_of(method: str, path: str) -> Api | None:
    """Which API a request speaks by its method and path (a query is ignored), or None if it is not one of ours."""
    if method.upper() != "POST":
        return None
    path = path.partition("?")[0].rstrip("/")
    if "/threads/" in path:  # of the Assistants API, whose messages are not Anthropic's
        return None
    return next((api for ending, api in _ENDINGS if path.endswith(ending)), None)


class Reconstruction:
    """Reads one exchange. Give the request, then `response`, then the body by `feed`, then `finish`."""

    def __init__(
        self,
        api: Api,
        *,
        request_headers: Sequence[tuple[bytes, bytes]],
        request_body: bytes,
        request_truncated: bool = False,
    ) -> None:
        """`request_body` is as it came on the wire. Raises `NotReconstructed` where it is no request of `api`."""
        self._api: Api = api
        self._notes = Notes()
        if request_truncated:
            raise NotReconstructed("request body was cut")
        body = _request_object(request_headers, request_body, self._notes)
        self._request = _READERS[api](body)
        self._session = session_of(request_headers, body, self._notes)
        self._response: NoResponse | None = None

    def response(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The response has begun. At most once."""
        if self._response is not None:
            raise RuntimeError("the response has begun already")
        decoder = ContentDecoder(codings_of(headers), "response body")
        if 200 <= status < 300:
            content_type = next((v for k, v in headers if k.lower() == b"content-type"), b"")
            is_stream = content_type.strip().lower().startswith(b"text/event-stream")
            self._response = Answer(decoder, _machine(self._api, self._request), self._api, is_stream, self._notes)
        else:
            self._response = Failure(decoder, status, self._notes)

    def feed(self, data: bytes, at: int) -> None:
        """A piece of the response's body, still encoded, that came `at` microseconds after the exchange began."""
        if self._response is None:
            raise RuntimeError("the response has not begun")
        self._response.feed(data, at)

    def feed_all(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """`feed` for each piece, with its time. Once the first token's time is known no other is asked for, and the
        pieces go together: most are a few bytes, and to take one costs more than to read it."""
        together: list[bytes] = []
        size = 0
        for at, piece in pieces:
            together.append(piece)
            size += len(piece)
            if size >= _TOGETHER_BYTES or self._response is None or self._response.first_token_us is None:
                self.feed(b"".join(together), at)
                together, size = [], 0
        if together:
            self.feed(b"".join(together), at)

    def finish(self, *, complete: bool) -> Turn:
        """The turn. `complete`: the response ended as HTTP says it should. Without a response it is the input alone.

        Raises `NotReconstructed` for a complete successful response that is not what it should be.
        """
        response = self._response or NoResponse()
        # What came with the request is storable already. Of the response it is known only now: two deltas may hold the
        # two halves of one character.
        reading = storable(response.finish(complete=complete), self._notes)
        self._notes.extend((*self._request.notes, *reading.notes))
        return Turn(
            api=self._api,
            model=self._request.model,
            input=self._request.input,
            outputs=reading.outputs,
            resolved_model=reading.resolved_model,
            tools=tuple(map(_tool_without_credentials, self._request.tools)),
            schema=self._request.schema,
            options=without_credentials(self._request.options),
            usage=reading.usage,
            response_json=without_credentials(reading.response_json),
            response_id=reading.response_id,
            previous_response_id=self._request.previous_response_id,
            conversation=self._request.conversation,
            echoed_item=self._request.echoed_item,
            instructions=self._request.instructions,
            session=self._session,
            stream=response.is_stream,
            finished=reading.finished,
            error=reading.error,
            first_token_us=response.first_token_us,
            notes=storable(tuple(self._notes), Notes()),
        )


def _request_object(headers: Sequence[tuple[bytes, bytes]], body: bytes, notes: Notes) -> dict[str, Any]:
    decoder = ContentDecoder(codings_of(headers), "request body")
    decoded = decoder.feed(body) + decoder.finish()
    if decoder.trouble is not None:
        raise NotReconstructed(decoder.trouble)
    value = parse_storable(decoded, "request body", notes)
    if not isinstance(value, dict):
        raise NotReconstructed("request body is not an object")
    return value


def _machine(api: Api, request: RequestReading) -> ResponseMachine:
    match api:
        case "chat.completions":
            return chat_completions.Machine(request)
        case "completions":
            return completions.Machine()
        case "responses":
            return responses.Machine()
        case "messages":
            return anthropic_messages.Machine()
        case "embeddings":
            return embeddings.Machine()


def _tool_without_credentials(tool: Tool) -> Tool:
    return dataclasses.replace(tool, input_schema=without_credentials(tool.input_schema))
