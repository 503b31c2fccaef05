"""A chat completion request as what a model of `llm` is prompted with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm import Attachment, Tool
from llm.models import AsyncModel, Model
from llm.parts import AttachmentPart, Message, TextPart
from pydantic import ValidationError

from llmproxy.inprocess.llm_models_attachments import check_attachments
from llmproxy.inprocess.openai_request import BadRequest, ChatRequest, parse
from llmproxy.reconstruct.chat_request import read_request

# Fields that ask nothing of the model.
_NEUTRAL = frozenset(
    {"stream", "stream_options", "user", "metadata", "store", "n", "parallel_tool_calls", "safety_identifier"}
    | {"prompt_cache_key", "service_tier"}
)
# What the limit of the answer's length is called by those models of `llm` that have one.
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


@dataclass(frozen=True, slots=True)
class Call:
    """What the model is asked. `history`: the messages before the one that is prompted.

    `prompt` and `attachments` are the last message's where a user said it; else they are empty, and the history is all.
    `system` stands in the history too: older plug-ins look for it here.
    """

    history: Sequence[Message]
    prompt: str | None
    attachments: Sequence[Attachment]
    system: str | None
    tools: Sequence[Tool]
    schema: Mapping[str, Any] | None
    options: Mapping[str, Any]
    stream: bool
    usage_in_stream: bool


def read_call(body: Mapping[str, Any], model: Model | AsyncModel) -> Call:
    """What a request's body asks of `model`. Raises `BadRequest` for what it cannot do, by the field's name."""
    chat = parse(ChatRequest, dict(body))
    if chat.n not in (None, 1):
        raise BadRequest("Invalid value for 'n': models of llm give one answer.", "n", "invalid_value")
    reading = read_request(body)
    if reading.tools and not model.supports_tools:
        raise _refused("tools", "this model calls no tools")
    if reading.schema is not None and not model.supports_schema:
        raise _refused("response_format", "this model follows no JSON schema")
    messages = list(reading.input)
    check_attachments(body["messages"], model.attachment_types)
    last = messages[-1] if messages and messages[-1].role == "user" else None
    texts = [part.text for part in last.parts if isinstance(part, TextPart)] if last else []
    attached = [part.attachment for part in last.parts if isinstance(part, AttachmentPart)] if last else []
    system = "\n\n".join(
        part.text
        for message in messages
        if message.role == "system"
        for part in message.parts
        if isinstance(part, TextPart)
    )
    return Call(
        history=messages[:-1] if last else messages,
        prompt="\n".join(texts) if last else None,
        attachments=[attachment for attachment in attached if attachment],
        system=system or None,
        tools=reading.tools,
        schema=reading.schema,
        options=_options(body, model),
        stream=bool(chat.stream),
        usage_in_stream=chat.usage_in_stream,
    )


def _options(body: Mapping[str, Any], model: Model | AsyncModel) -> dict[str, Any]:
    known = model.Options.model_fields
    options: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _NEUTRAL or name in ("model", "messages", "tools", "functions"):
            continue
        if name in known:
            options[name] = value
        elif name in ("max_tokens", "max_completion_tokens"):
            limit = next((each for each in _LIMITS if each in known), None)
            if limit is None:
                raise _refused(name, "this model's answers have no limit that could be set")
            options[limit] = value
        elif name == "tool_choice" and value in ("auto", "none"):
            if value == "none" and body.get("tools"):
                raise _refused(name, "leave the tools out instead")
        elif name == "response_format" and value.get("type") in ("text", "json_schema"):
            continue
        else:
            raise _refused(name, "this model has no such option")
    try:
        model.Options(**options)
    except ValidationError as exc:
        error = exc.errors()[0]
        place = str(error["loc"][0]) if error["loc"] else None
        raise BadRequest(f"Invalid value for '{place}': {error['msg']}.", place, "invalid_value") from None
    return options


def _refused(name: str, why: str) -> BadRequest:
    return BadRequest(f"Unsupported parameter: '{name}': {why}.", name, "unsupported_parameter")
