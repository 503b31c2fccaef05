"""The body of a response whose status is not 2xx."""

from dataclasses import dataclass
from typing import Any

from llmproxy.reconstruct.error_message import error_message
from llmproxy.reconstruct.json_values import parse
from llmproxy.reconstruct.turn import NotReconstructed

_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class HttpError:
    """`message`: what went wrong, in the provider's words. `body`: its JSON value, if it is one."""

    message: str
    body: Any


def read_http_error(status: int, body: bytes) -> HttpError:
    """The error that a response tells of: JSON in any of the providers' shapes, HTML of a gateway, or nothing."""
    text = body.decode("utf-8", "replace").strip()
    try:
        value = parse(body, "error body")
    except NotReconstructed:
        return HttpError(text[:_MAX_TEXT] or f"HTTP {status}", None)
    said = value[0] if isinstance(value, list) and value else value  # Gemini's compatible API sends a list
    if isinstance(said, dict) and said:
        return HttpError(error_message(said), value)
    if isinstance(said, str) and said:
        return HttpError(said, value)
    return HttpError(f"HTTP {status}", value)
