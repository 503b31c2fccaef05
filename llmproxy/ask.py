"""`POST /v1/ask`: a question in plain fields, made a chat completion request for the forward path.

    {"question": "and the second one?", "history": [{"role": "user", "content": "…"}, {"role": "assistant", …}],
     "client_id": "shop", "user_id": "u-7", "stream": true}

The model and the system prompt are the configuration's (`ask.model`, `ask.system`), the upstream is the default one,
and its response passes as it is. Nothing is called from here.

What is recorded is the request that went upstream, and beside it, as header fields that are recorded and never sent on,
that it came by `/v1/ask` and the two ids.
"""

import json
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from llmproxy.config import AskConfig
from llmproxy.errors import FieldError, ProxyError
from llmproxy.guard import Caller
from llmproxy.headers import ASK_CLIENT_ID, ASK_USER_ID, VIA, Header, Headers, get
from llmproxy.transports.asgi import Message, Receive

PATH = b"/v1/ask"
# Text that people and models wrote to each other; whole books fit.
MAX_BODY_BYTES = 4 * 1024 * 1024

_CHAT_COMPLETIONS = b"/v1/chat/completions"
_ADDED = frozenset((VIA, ASK_CLIENT_ID, ASK_USER_ID))
# They tell of the body that came; ours is another.
_OF_THE_BODY = frozenset(
    (b"content-length", b"content-type", b"content-digest", b"content-md5", b"digest", b"transfer-encoding")
)

Scope = MutableMapping[str, Any]
Id = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Said(_Body):
    """A message of the history."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Question(_Body):
    """The body of `POST /v1/ask`."""

    question: str = Field(min_length=1)
    history: list[Said] = Field(default_factory=list)
    client_id: Id | None = None
    user_id: Id | None = None
    stream: bool = False


async def as_chat_completion(
    config: AskConfig, scope: Scope, receive: Receive, caller: Caller
) -> tuple[Scope, Receive, Caller]:
    """What to forward in place of a `POST /v1/ask`: the scope, the body and the caller of a chat completion request.

    Raises `ProxyError`: 404 where `ask` is not configured, 413, 400 for what is no JSON, 422 that names each field that
    is missing or wrong.
    """
    if config.model is None:
        raise ProxyError("ask_not_configured", "/v1/ask has no model: set ask.model in the configuration")
    if get(scope["headers"], b"content-encoding") not in (None, b"identity"):
        raise ProxyError("bad_request", "/v1/ask takes no content-encoding; send the body uncompressed")
    question = _parse(await _read(receive))
    body = json.dumps(_request(config, config.model, question), ensure_ascii=False).encode()
    rewritten = {
        **scope,
        "path": _CHAT_COMPLETIONS.decode(),
        "raw_path": _CHAT_COMPLETIONS,
        "headers": _headers(scope["headers"], question, len(body)),
        # What a server tells of the request besides ASGI's scope is of the request that came.
        "extensions": {},
    }
    return rewritten, _receive_of(body, receive), replace(caller, key_headers=caller.key_headers | _ADDED)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProxyError("bad_request", "the request's body broke off")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise ProxyError("body_too_large", f"/v1/ask takes up to {MAX_BODY_BYTES} bytes; leave old history out")
        if not message.get("more_body", False):
            return bytes(body)


def _parse(body: bytes) -> Question:
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        raise ProxyError("bad_request", 'the body is not JSON; send {"question": "…"}') from None
    if not isinstance(decoded, dict):
        raise _refusal([FieldError("question", 'it is missing: the body is no object such as {"question": "…"}')])
    try:
        return Question.model_validate(decoded)
    except ValidationError as exc:
        raise _refusal([_field_error(mistake) for mistake in exc.errors(include_input=False)]) from None


def _field_error(mistake: ErrorDetails) -> FieldError:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"]).lstrip(".")
    known = Said if len(mistake["loc"]) > 1 else Question
    said = {
        "missing": "it is missing",
        "extra_forbidden": f"there is no such field; there is: {', '.join(known.model_fields)}",
    }
    return FieldError(place, said.get(mistake["type"], mistake["msg"]))


def _refusal(wrong: Sequence[FieldError]) -> ProxyError:
    return ProxyError("invalid_fields", "; ".join(f"{each.param}: {each.message}" for each in wrong), wrong)


def _request(config: AskConfig, model: str, question: Question) -> dict[str, Any]:
    messages = [{"role": said.role, "content": said.content} for said in question.history]
    if config.system is not None:
        messages.insert(0, {"role": "system", "content": config.system})
    messages.append({"role": "user", "content": question.question})
    request: dict[str, Any] = {"model": model, "messages": messages}
    if question.stream:
        request["stream"] = True
    ids = {"client_id": question.client_id, "user_id": question.user_id}
    known = {name: value for name, value in ids.items() if value is not None}
    if "user" in config.send_ids and question.user_id is not None:
        request["user"] = question.user_id
    if "metadata" in config.send_ids and known:
        request["metadata"] = known
    return request


def _headers(sent: Headers, question: Question, length: int) -> list[Header]:
    headers = [header for header in sent if header[0] not in _OF_THE_BODY | _ADDED]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % length), (VIA, PATH)]
    for name, value in ((ASK_CLIENT_ID, question.client_id), (ASK_USER_ID, question.user_id)):
        if value is not None:
            # A field holds no line break and, surely, only ASCII (RFC 9110 section 5.5).
            headers.append((name, quote(value, safe="").encode()))
    return headers


def _receive_of(body: bytes, rest: Receive) -> Receive:
    """Gives the new body, and then what the server has to say: that the client is gone."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await rest()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
