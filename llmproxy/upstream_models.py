"""The models of an HTTP upstream as models of `llm`: its own OpenAI models, at the upstream's base URL with its key.

They call the provider themselves; the proxy need not run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import httpx2
import llm
import openai
from llm.default_plugins.openai_models import AsyncChat, AsyncResponses, Chat, Responses, build_options_class
from llm.parts import Message, Part, ReasoningPart, ToolCallPart, ToolResultPart

from llmproxy.config import UpstreamConfig
from llmproxy.upstream_keys import key_alias, key_variable

NO_RESULT = "(no result was recorded)"

# Whatever a provider may offer: one that has no use for an option or an attachment says so itself. Made once: pydantic
# takes 2 ms for it.
ChatOptions = build_options_class(reasoning=True, verbosity=True, service_tier=True)


class _AtUpstream:
    """What the four classes below have in common: where to call, and a history that providers take."""

    # `llm` would have to find this model again, by name, to read payloads that were condensed with its replacements.
    json_replacements: ClassVar[dict[str, Any]] = {}

    def __init__(self, upstream: str, config: UpstreamConfig, model: str) -> None:
        super().__init__(  # type: ignore[call-arg]
            f"{upstream}/{model}",
            model_name=model,
            api_base=config.base_url,
            headers={name: value for name, value in config.default_headers.items() if value is not None},
            vision=True,
            audio=True,
            supports_schema=True,
            supports_tools=True,
            **self._flags,
        )
        self.needs_key = key_alias(upstream, config)
        self.key_env_var = key_variable(upstream)
        self._removed = [name for name, value in config.default_headers.items() if value is None]
        self._timeout = httpx2.Timeout(
            connect=config.connect_timeout, read=config.read_timeout, write=config.read_timeout, pool=None
        )

    _flags: ClassVar[dict[str, bool]] = {}

    def __str__(self) -> str:
        return f"llmproxy: {self.model_id}"  # type: ignore[attr-defined]

    def get_client(self, key: str | None, *, async_: bool = False) -> Any:
        client = super().get_client(key, async_=async_)  # type: ignore[misc]
        options: dict[str, Any] = {"timeout": self._timeout}
        if self._removed:
            options["http_client"] = self._async_http_client() if async_ else self._http_client()
        return client.with_options(**options)

    def _http_client(self) -> httpx2.Client:
        return openai.DefaultHttpxClient(event_hooks={"request": [self._remove_headers]})

    def _async_http_client(self) -> httpx2.AsyncClient:
        async def remove_headers(request: httpx2.Request) -> None:
            self._remove_headers(request)

        return openai.DefaultAsyncHttpxClient(event_hooks={"request": [remove_headers]})

    def _remove_headers(self, request: httpx2.Request) -> None:
        # On the wire: the openai package refuses a client that has no Authorization to send.
        for name in self._removed:
            request.headers.pop(name, None)


class _AtChatCompletions(_AtUpstream):
    def build_messages(self, prompt: llm.Prompt, conversation: Any, image_detail: Any = None) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = super().build_messages(  # type: ignore[misc]
            _sendable(prompt), conversation, image_detail=image_detail
        )
        return messages

    def _append_llm_message(self, out: list[dict[str, Any]], message: Message, *args: Any, **kwargs: Any) -> Any:
        before = len(out)
        system = super()._append_llm_message(out, message, *args, **kwargs)  # type: ignore[misc]
        for entry in out[before:]:
            if "tool_calls" in entry:
                entry.update(_reasoning_fields(message))
        return system


class _AtResponses(_AtUpstream):
    _flags: ClassVar[dict[str, bool]] = {"reasoning": True, "verbosity": True, "service_tier": True}

    def _build_responses_input(self, prompt: llm.Prompt, *args: Any, **kwargs: Any) -> Any:
        return super()._build_responses_input(_sendable(prompt), *args, **kwargs)  # type: ignore[misc]


class UpstreamChat(_AtChatCompletions, Chat):  # type: ignore[misc]
    """A model over Chat Completions."""

    Options = ChatOptions


class AsyncUpstreamChat(_AtChatCompletions, AsyncChat):  # type: ignore[misc]
    """The same for asyncio."""

    Options = ChatOptions


class UpstreamResponses(_AtResponses, Responses):  # type: ignore[misc]
    """A model over the Responses API."""


class AsyncUpstreamResponses(_AtResponses, AsyncResponses):  # type: ignore[misc]
    """The same for asyncio."""


def model_classes(
    api: str | None,
) -> tuple[type[UpstreamChat | UpstreamResponses], type[AsyncUpstreamChat | AsyncUpstreamResponses]]:
    """The classes, for threads and for asyncio, that speak an API; Chat Completions where it is another or unknown."""
    return (UpstreamResponses, AsyncUpstreamResponses) if api == "responses" else (UpstreamChat, AsyncUpstreamChat)


def _sendable(prompt: llm.Prompt) -> llm.Prompt:
    """The prompt with its history as a provider takes it.

    A captured conversation may end in the middle of an agent's work, and may come from another API: calls that nobody
    answered are answered with `NO_RESULT`, since providers refuse them as they are; what a provider executed itself,
    which only the API of that time could be told again, is left out.
    """
    return llm.Prompt(prompt=None, model=prompt.model, messages=list(_answered(_ours(prompt.messages))))


def _ours(messages: Sequence[Message]) -> Iterable[Message]:
    for message in messages:
        parts = [part for part in message.parts if not getattr(part, "server_executed", False)]
        if any(not isinstance(part, ReasoningPart) for part in parts) or not message.parts:
            yield replace(message, parts=parts)


def _answered(messages: Iterable[Message]) -> Iterable[Message]:
    open_calls: dict[str | None, ToolCallPart] = {}
    for message in messages:
        if message.role != "tool":
            yield from _stand_ins(open_calls)
            open_calls = {p.tool_call_id: p for p in message.parts if isinstance(p, ToolCallPart)}
        else:
            for part in message.parts:
                if isinstance(part, ToolResultPart):
                    open_calls.pop(part.tool_call_id, None)
        yield message
    yield from _stand_ins(open_calls)


def _stand_ins(calls: dict[str | None, ToolCallPart]) -> Iterable[Message]:
    if calls:
        results: list[Part] = [
            ToolResultPart(name=call.name, output=NO_RESULT, tool_call_id=call.tool_call_id) for call in calls.values()
        ]
        yield Message(role="tool", parts=results)


def _reasoning_fields(message: Message) -> dict[str, str]:
    """The reasoning before a tool call, under the name it came in: DeepSeek and Moonshot refuse the call without it."""
    fields: dict[str, str] = {}
    for part in message.parts:
        if isinstance(part, ReasoningPart) and part.text:
            field = ((part.provider_metadata or {}).get("openai") or {}).get("field")
            if field is not None:
                fields[field] = part.text
    return fields
