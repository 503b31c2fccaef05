"""llmproxy's own errors, before a response began, in the shape of OpenAI's.

`x-llmproxy-error` tells them from the provider's, which pass unchanged.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmproxy.headers import Header

ErrorCode = Literal[
    "upstream_unreachable",
    "upstream_protocol",
    "upstream_timeout",
    "spool_unavailable",
    "unknown_upstream",
    "client_key_required",
    "origin_refused",
    "host_refused",
    "bad_request",
    "head_too_large",
    "request_timeout",
    "upgrade_required",
    "shutting_down",
    "ask_not_configured",
    "body_too_large",
    "invalid_fields",
    "overloaded",
]

STATUS: dict[ErrorCode, int] = {
    "upstream_unreachable": 502,
    "upstream_protocol": 502,
    "upstream_timeout": 504,
    "spool_unavailable": 503,
    "unknown_upstream": 404,
    "client_key_required": 401,
    "origin_refused": 403,
    "host_refused": 403,
    "bad_request": 400,
    "head_too_large": 431,
    "request_timeout": 408,
    "upgrade_required": 426,
    "shutting_down": 503,
    "ask_not_configured": 404,
    "body_too_large": 413,
    "invalid_fields": 422,
    "overloaded": 503,
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field of a request's body that is missing or wrong. `param` is its place: ``history[0].role``."""

    param: str
    message: str


class ProxyError(Exception):
    """llmproxy answers by itself: `code` decides the status, `message` says what is wrong and how to mend it.

    `fields`: what is wrong with the body, field by field.
    """

    def __init__(self, code: ErrorCode, message: str, fields: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.fields = tuple(fields)

    def response(self) -> tuple[int, list[Header], bytes]:
        """Status, header fields and body of the answer."""
        kind = "invalid_request_error" if STATUS[self.code] < 500 else "llmproxy_error"
        param = self.fields[0].param if self.fields else None
        error: dict[str, Any] = {"message": self.message, "type": kind, "code": self.code, "param": param}
        if self.fields:
            error["fields"] = [{"param": field.param, "message": field.message} for field in self.fields]
        body = json.dumps({"error": error}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-llmproxy-error", self.code.encode()),
        ]
        if self.code == "client_key_required":
            headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 11.6.1: a 401 names a challenge
        if self.code == "upgrade_required":
            headers.append((b"upgrade", b"HTTP/1.1"))  # RFC 9110 section 15.5.22
        return STATUS[self.code], headers, body

    async def send(self, send: Any) -> None:
        """Answer an ASGI request with it."""
        status, headers, body = self.response()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class ResponseCut(Exception):
    """The response broke off after it began. Raised to the server, which drops the client's connection: a cut stream
    never looks whole (Go's `http.ErrAbortHandler` is the same idea)."""
