"""What the mock is told to do: by its options, and by each request."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from llmproxy.inprocess.mock_answer import split_directive
from llmproxy.inprocess.openai_request import BadRequest, place_of

# An hour: longer than any client waits.
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]

HEADER_PREFIX = b"x-mock-"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class MockModel(_Settings):
    """A model that the mock plays, so that models can be told apart in a comparison."""

    name: str = Field(min_length=1)
    # Its delays are divided by this.
    speed: float = Field(default=1, ge=0.001, allow_inf_nan=False)
    # Dollars for a million tokens; answers then have the price in `usage.cost`.
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    # The share of texts that it answers well; to the others it says that it does not know.
    quality: float = Field(default=1, ge=0, le=1)
    # The share of requests that fail with 500; the same request may succeed when it is sent again.
    error_rate: float = Field(default=0, ge=0, le=1)
    # How much its delays vary: 0.5 makes them half to one and a half times as long.
    jitter: float = Field(default=0, ge=0, le=1)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _distinct(models: tuple[MockModel, ...]) -> tuple[MockModel, ...]:
    if len({model.name for model in models}) < len(models):
        raise ValueError("two models have the same name")
    return models


class Options(_Settings):
    """`options` of the upstream. A model that is not listed is played as a plain one of that name."""

    first_delay: Seconds = 0
    chunk_delay: Seconds = 0.02
    models: Annotated[
        tuple[Annotated[MockModel, BeforeValidator(_named)], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = (
        MockModel(name="mock"),
        MockModel(name="mock-small", speed=4, price=0.1, quality=0.7),
        MockModel(name="mock-large", speed=0.5, price=10),
    )
    # true: there must be a key; a string: it must be this one.
    require_key: bool | Annotated[str, Field(min_length=1)] = False

    def model(self, name: str | None) -> MockModel:
        """The model that a request names; the first one where it names none."""
        if not name:
            return self.models[0]
        return next((model for model in self.models if model.name == name), MockModel(name=name))


class ScriptedToolCall(_Settings):
    """A tool call to answer with. `arguments`: an object, or a string to send as it is."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str | None = None


class Script(_Settings):
    """What a request tells the mock: the object `mock` in its body, header fields `x-mock-answer: …`, or a last user
    message (or a prompt) that begins with `/mock {…}`. Words of Chat Completions are said in each API's own
    (`finish_reason: length` is `max_tokens` in Messages); others, and `usage`, are sent as they are."""

    answer: str | None = None
    # The answer, cut just so.
    chunks: tuple[str, ...] | None = None
    reasoning: str | None = None
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    finish_reason: str | None = None
    # Sent instead of what was counted.
    usage: dict[str, Any] | None = None
    # Seconds before the response, and before each chunk of a stream but the first.
    first_delay: Seconds | None = None
    chunk_delay: Seconds | None = None
    status: int | None = Field(default=None, ge=400, le=599)
    # The error's message, or any of its keys.
    error: str | dict[str, Any] | None = None
    # Seconds, for the header field `retry-after`.
    retry_after: int | None = Field(default=None, ge=0)
    # Break the connection after so many events of a stream, `[DONE]` not counted; in the middle of any other body.
    cut_after: int | None = Field(default=None, ge=0)
    # Send an error event after so many events and end the stream.
    error_after: int | None = Field(default=None, ge=0)
    # Send bytes that are no JSON.
    garbage: bool = False
    # Answer with the request's header fields as JSON: `{"headers": [[name, value], …]}`, names in lower case.
    echo_headers: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.answer is not None and self.chunks is not None:
            raise ValueError("answer and chunks exclude each other")
        if self.error is not None and self.status is None and self.error_after is None:
            raise ValueError("error needs status or error_after")
        if self.retry_after is not None and self.status is None:
            raise ValueError("retry_after needs status")
        return self

    @property
    def answers(self) -> bool:
        """Whether the answer itself is scripted."""
        return self.answer is not None or self.chunks is not None or bool(self.tool_calls)


# Whose value in a header field is the text itself, which may look like JSON.
_TEXTS = ("answer", "reasoning", "finish_reason")


def script_of(headers: Sequence[tuple[bytes, bytes]], body: Mapping[str, Any], text: str = "") -> Script:
    """A request's script: header fields over the body, the body over its last user text. Raises `BadRequest`."""
    told, _ = split_directive(text)
    in_body = body.get("mock")
    if in_body is not None and not isinstance(in_body, dict):
        raise BadRequest(
            'Invalid value for \'mock\': it is an object, such as {"answer": "hi"}.', "mock", "invalid_type"
        )
    merged = told | (in_body or {}) | _from_headers(headers)
    try:
        return Script.model_validate(merged)
    except ValidationError as exc:
        raise _refusal(exc) from None


def _refusal(exc: ValidationError) -> BadRequest:
    error = max(exc.errors(include_url=False), key=lambda error: len(error["loc"]))
    if error["type"] == "extra_forbidden":
        *inside, key = error["loc"]
        place = f"{place_of(('mock', *inside))}.{key}"
        there_is = "" if inside else f" There is: {', '.join(Script.model_fields)}."
        return BadRequest(f"Unknown parameter: '{place}'.{there_is}", place, "unknown_parameter")
    place = place_of(("mock", *error["loc"]))
    return BadRequest(f"Invalid value for '{place}': {error['msg']}.", place, "invalid_value")


def _from_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    told = {}
    for name, value in headers:
        if name.startswith(HEADER_PREFIX):
            key = name.removeprefix(HEADER_PREFIX).decode("latin-1").replace("-", "_")
            told[key] = _header_value(key, value)
    return told


def _header_value(key: str, value: bytes) -> Any:
    """JSON where it is JSON, else text."""
    text = value.decode("utf-8", "replace")
    try:
        decoded = json.loads(text)
    except ValueError:
        return text
    return text if key in _TEXTS and not isinstance(decoded, str) else decoded
