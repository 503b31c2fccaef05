"""From a captured turn to the request for a target: its path and its body."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llm.parts import Message, ReasoningPart

from llmproxy.bench.chat_body import chat_messages, chat_tools
from llmproxy.bench.content import Untranslatable, is_providers_own
from llmproxy.bench.messages_body import messages_body, messages_tools
from llmproxy.bench.options import translated, with_schema
from llmproxy.bench.responses_body import responses_input, responses_tools
from llmproxy.bench.results import Target
from llmproxy.config import UpstreamConfig
from llmproxy.parts import text_of
from llmproxy.reconstruct.credentials import REDACTED
from llmproxy.reconstruct.turn import Api
from llmproxy.store.captured import CapturedTurn

__all__ = ["PATHS", "BenchRequest", "Untranslatable", "api_for", "build"]

PATHS: dict[Api, str] = {
    "chat.completions": "chat/completions",
    "completions": "completions",
    "messages": "messages",
    "responses": "responses",
}
# Request headers that change what is answered, and so are sent again.
_KEPT_HEADERS = ("anthropic-version", "anthropic-beta", "openai-beta")
_ANTHROPIC_VERSION = "2023-06-01"


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What is sent: the path behind the upstream's `/v1/`, header fields, and the body as JSON.

    `notes` name what of the prompt is not in it.
    """

    api: Api
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    notes: tuple[str, ...] = ()


def api_for(turn: CapturedTurn, target: Target, upstream: UpstreamConfig) -> Api:
    """The API to speak to a target: the one that it names; the turn's own where the upstream is known to speak it; else
    Chat Completions, which nearly everyone speaks."""
    if target.api is not None:
        return target.api  # type: ignore[return-value]
    host = urlsplit(upstream.base_url or "").hostname or ""
    if host.endswith("anthropic.com"):
        return "messages"
    own = turn.api or "chat.completions"
    if turn.upstream == target.upstream or (host.endswith("openai.com") and own != "messages"):
        return own
    return "chat.completions"


def build(turn: CapturedTurn, target: Target, api: Api) -> BenchRequest:
    """The request for a target. Raises `Untranslatable` with the reason where there is none."""
    source: Api = turn.api or "chat.completions"
    if not turn.whole_input:
        raise Untranslatable(
            "the provider kept the conversation's beginning (previous_response_id), and it is not here"
        )
    if source == "embeddings":
        raise Untranslatable("embeddings are no answers")
    if "completions" in (source, api) and source != api:
        raise Untranslatable(f"{source} cannot be translated to {api}")
    if REDACTED in json.dumps([tool.input_schema for tool in turn.tools]):
        raise Untranslatable("a tool needs a credential, and credentials are not recorded")
    notes: tuple[str, ...] = ()
    if source == api:
        options = with_schema(turn.options, api, turn.schema)
    else:
        for tool in turn.tools:
            if is_providers_own(tool):
                raise Untranslatable(f"the tool {tool.name} is run by its provider")
        options, left_out = translated(turn.options, source, api, turn.schema)
        notes = tuple(f"not sent: {name}" for name in left_out)
        if any(isinstance(part, ReasoningPart) for message in turn.input for part in message.parts):
            notes += ("not sent: reasoning of earlier answers",)
    body = {"model": target.model, **_conversation(turn, api, source == api), **options, "stream": True}
    if api in ("chat.completions", "completions"):
        # Without it most providers do not tell the tokens of a stream.
        body["stream_options"] = {"include_usage": True}
    for name, value in target.options.items():
        if value is None:
            body.pop(name, None)
        else:
            body[name] = value
    if not body.get("stream"):
        body.pop("stream_options", None)
    notes = tuple(note for note in notes if note.removeprefix("not sent: ") not in target.options)
    text = json.dumps(body, ensure_ascii=False).encode()
    return BenchRequest(api, PATHS[api], _headers(turn, api), text, notes)


def _conversation(turn: CapturedTurn, api: Api, own: bool) -> dict[str, Any]:
    given = turn.options.get("tools")
    extras = given if isinstance(given, dict) else {}
    input = turn.input if own else [_neutral(message) for message in turn.input]
    if api == "messages":
        written = messages_body(input, own=own)
        return {**written, **({"tools": messages_tools(turn.tools, extras, own=own)} if turn.tools else {})}
    if not own:
        extras = {name: {"strict": extra["strict"]} for name, extra in extras.items() if "strict" in extra}
    if api == "responses":
        tools = {"tools": responses_tools(turn.tools, extras)} if turn.tools else {}
        return {"input": responses_input(input), **tools}
    if api == "chat.completions":
        tools = {"tools": chat_tools(turn.tools, extras)} if turn.tools else {}
        return {"messages": chat_messages(input), **tools}
    prompts = [text_of([message]) for message in input]
    return {"prompt": prompts[0] if len(prompts) == 1 else prompts}


def _neutral(message: Message) -> Message:
    """A message without what only the API that it was captured in understands: reasoning, and fields of its own."""
    parts = [part for part in message.parts if not isinstance(part, ReasoningPart)]
    own = (message.provider_metadata or {}).get("openai", {})
    kept = {key: value for key, value in own.items() if key in ("role", "name")}
    return Message(message.role, parts, {"openai": kept} if kept else None)


def _headers(turn: CapturedTurn, api: Api) -> tuple[tuple[str, str], ...]:
    kept = [(name, value) for name, value in turn.headers if name in _KEPT_HEADERS] if turn.api == api else []
    if api == "messages" and not any(name == "anthropic-version" for name, _ in kept):
        kept.append(("anthropic-version", _ANTHROPIC_VERSION))
    return tuple(kept)
