"""What our OpenAI-compatible apps understand of a request's body. Wrong types are refused as OpenAI does, unknown keys
let by."""

import json
from typing import Annotated, Any, Literal, NotRequired, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

# Before Python 3.12 pydantic does not take typing's.
from typing_extensions import TypedDict


class BadRequest(ValueError):
    """The request makes no sense. `param` names the field, `code` is OpenAI's word for what is wrong with it."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Body(BaseModel):
    """What reads a part of a request."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class Part(TypedDict):
    """A part of a message's content; what other keys it has depends on its type."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    type: str
    text: NotRequired[str]


class Message(TypedDict):
    """A message, kept as the dict that came."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: NotRequired[str | list[Part] | None]


class Function(Body):
    name: str = Field(min_length=1)
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool. Only functions are ever called."""

    type: str
    function: Function | None = None

    @model_validator(mode="after")
    def _has_its_function(self) -> Self:
        if self.type == "function" and self.function is None:
            raise ValueError("a tool of type function has a function")
        return self


class NamedFunction(Body):
    name: str


class ToolChoice(Body):
    type: str
    function: NamedFunction | None = None


class JsonSchema(Body):
    value: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("a response format of type json_schema has a json_schema")
        return self


class StreamOptions(Body):
    include_usage: bool | None = None


class _Generation(Body):
    """What chat and legacy completions have in common."""

    model: str | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_in_stream(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(_Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


# A text, several, one as token numbers, or several of those.
Texts = str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1)]


class CompletionRequest(_Generation):
    """The body of `POST /v1/completions`."""

    prompt: Texts
    echo: bool | None = None


class EmbeddingRequest(Body):
    """The body of `POST /v1/embeddings`."""

    model: str | None = None
    input: Texts
    dimensions: int | None = Field(default=None, ge=1, le=4096)
    encoding_format: Literal["float", "base64"] | None = None


def texts_of(value: Texts) -> list[str]:
    """The texts of a prompt or an input. Tokens, which mean nothing here, become their numbers."""
    if isinstance(value, str):
        return [value]
    numbers = [item for item in value if isinstance(item, int)]
    if numbers:
        return [" ".join(map(str, numbers))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in value if not isinstance(item, int)]


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises `BadRequest`."""
    try:
        decoded = json.loads(body)
    except ValueError as exc:
        raise BadRequest(f"We could not parse the JSON body of your request: {exc}") from None
    except RecursionError:
        raise BadRequest("We could not parse the JSON body of your request: it is nested too deeply.") from None
    if not isinstance(decoded, dict):
        raise BadRequest("We could not parse the JSON body of your request: it is not an object.")
    return decoded


BodyT = TypeVar("BodyT", bound=BaseModel)


def parse(kind: type[BodyT], body: dict[str, Any]) -> BodyT:
    """The body as what it should be. Raises `BadRequest` for the first field that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as exc:
        # Of a union every member complains; the one that came furthest is the one that was meant.
        error = max(exc.errors(include_url=False), key=lambda error: len(error["loc"]))
        raise _refusal(error) from None


def _refusal(error: ErrorDetails) -> BadRequest:
    place = place_of(error["loc"])
    if error["type"] == "missing":
        return BadRequest(f"Missing required parameter: '{place}'.", place, "missing_required_parameter")
    code = "invalid_type" if error["type"].endswith("_type") else "invalid_value"
    return BadRequest(f"Invalid value for '{place}': {error['msg']}.", place, code)


def place_of(location: tuple[int | str, ...]) -> str:
    """pydantic's location as OpenAI writes it: `messages[0].content`."""
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        # Between the keys stand the members of unions: `str`, `list[Part]`, `ToolChoice`, `literal['none','auto']`.
        elif step not in ("str", "int", "dict") and "[" not in step and step[:1].islower():
            place += f".{step}" if place else step
    return place
