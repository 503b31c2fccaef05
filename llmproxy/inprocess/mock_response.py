"""HTTP requests and responses as values, and the responses that do not depend on what was asked."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmproxy.inprocess.mock_answer import chance
from llmproxy.inprocess.mock_dialect import Dialect
from llmproxy.inprocess.mock_settings import MockModel, Options, Script
from llmproxy.inprocess.openai_objects import JsonObject


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `number` tells it from others of the same content, `time` is in seconds since 1970."""

    method: str
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    number: int
    time: float

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key == name), b"")


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent, and when.

    An event stream has a piece for each event, anything else has one and its `content_length`. The delays, in seconds,
    are before the head and before each piece but the first. `cut` breaks the connection after the last piece. `model`
    and `tokens` are for the log.
    """

    status: int
    pieces: tuple[bytes, ...]
    content_length: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    first_delay: float = 0
    chunk_delay: float = 0
    cut: bool = False
    model: str | None = None
    tokens: str = "-"

    @property
    def stream(self) -> bool:
        return self.content_length is None


def json_response(item: Any, status: int = 200) -> Response:
    return _whole(json.dumps(item).encode(), status)


def error(dialect: Dialect, status: int, message: str, param: str | None = None, code: str | None = None) -> Response:
    return json_response(dialect.error_object(status, message, param, code), status)


def event_stream(dialect: Dialect, objects: Iterable[JsonObject], script: Script) -> Response:
    """The objects as an event stream, which may end in a scripted error."""
    events = [dialect.frame(item) for item in objects]
    after = script.error_after
    if after is not None and after < len(events):
        failed = dialect.error_event(_scripted_error(dialect, script, 500), after)
        return Response(200, (*events[:after], dialect.frame(failed)))
    return Response(200, (*events, *dialect.STREAM_END))


def scripted(
    dialect: Dialect, options: Options, request: Request, script: Script, model: MockModel, *, stream: bool = False
) -> Response | None:
    """The response where the script says all of it: an error, bytes that are no JSON, or the request's own header."""
    if script.status is not None:
        more = () if script.retry_after is None else ((b"retry-after", b"%d" % script.retry_after),)
        response = replace(json_response(_scripted_error(dialect, script, script.status), script.status), headers=more)
    elif script.garbage and stream:
        response = Response(200, (dialect.GARBAGE, *dialect.STREAM_END))
    elif script.garbage:
        response = _whole(b'{"this is": no JSON\n', 200)
    elif script.echo_headers:
        fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers]
        response = json_response({"headers": fields})
    else:
        return None
    return paced(response, options, script, model)


def paced(
    response: Response, options: Options, script: Script, model: MockModel, usage: JsonObject | None = None
) -> Response:
    """The response with its delays, cut as the script says, and with what the log tells of it."""
    cut, pieces = False, response.pieces
    if script.cut_after is not None and not response.stream:
        cut, pieces = True, tuple(piece[: len(piece) // 2] for piece in pieces)
    elif script.cut_after is not None:
        cut, pieces = script.cut_after < len(pieces), pieces[: script.cut_after]
    slowness = 1 / model.speed
    if model.jitter:
        # The pieces hold the response's id, which differs from one to the next.
        slowness *= 1 + model.jitter * (2 * chance("jitter", repr(response.pieces[:1])) - 1)
    return replace(
        response,
        pieces=pieces,
        first_delay=options.first_delay * slowness if script.first_delay is None else script.first_delay,
        chunk_delay=options.chunk_delay * slowness if script.chunk_delay is None else script.chunk_delay,
        cut=cut,
        model=model.name,
        tokens=f"{_count(usage, 'prompt', 'input')}+{_count(usage, 'completion', 'output')}" if usage else "-",
    )


def _whole(body: bytes, status: int) -> Response:
    return Response(status, (body,), len(body))


def _count(usage: JsonObject, *names: str) -> Any:
    return next((usage[key] for name in names if (key := f"{name}_tokens") in usage), 0)


def _scripted_error(dialect: Dialect, script: Script, status: int) -> JsonObject:
    given = {"message": script.error} if isinstance(script.error, str) else script.error or {}
    body = dialect.error_object(status, "The request asked for this error.")
    return {**body, "error": body["error"] | given}
