"""The embeddings API. What was embedded is no conversation, and vectors are no messages: what remains is the call."""

from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.error_message import error_message, is_error
from llmproxy.reconstruct.json_values import Notes, mapping, nonempty, sequence
from llmproxy.reconstruct.machine import RequestReading, ResponseReading
from llmproxy.reconstruct.usage import read_usage

_MAPPED = frozenset({"model", "input", "stream"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, without what it asks to be embedded."""
    model = body.get("model")
    return RequestReading(
        model=model if isinstance(model, str) else None,
        input=(),
        options={key: value for key, value in body.items() if key not in _MAPPED and value is not None},
    )


class Machine:
    """Reads one response, leaving out the vectors."""

    def __init__(self) -> None:
        self._notes = Notes()
        self._body: dict[str, Any] = {}
        self._error: str | None = None
        self._finished = False

    def event(self, name: str, data: Any) -> bool:
        self._notes.add("embeddings came as a stream")
        return False

    def done(self) -> None:
        self._finished = True

    def whole(self, body: Any) -> None:
        self._body = dict(mapping(body, "response body", self._notes))
        if is_error(self._body, "data"):
            self._error = error_message(self._body)
        if "data" in self._body:
            entries = sequence(self._body["data"], "data", self._notes)
            self._body["data"] = [_without_vector(entry) for entry in entries]
        self._finished = True

    def finish(self) -> ResponseReading:
        return ResponseReading(
            resolved_model=nonempty(self._body.get("model"), "model", self._notes),
            usage=read_usage(self._body.get("usage"), self._notes),
            response_json=self._body or None,
            response_id=nonempty(self._body.get("id"), "id", self._notes),
            error=self._error,
            finished=self._finished,
            notes=tuple(self._notes),
        )


def _without_vector(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return None
    return {key: value for key, value in entry.items() if key != "embedding"}
