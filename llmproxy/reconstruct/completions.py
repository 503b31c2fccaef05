"""The legacy completions API: its request, and the machine that reads its response.

Mistral answers under paths that end alike (`/fim/completions`, `/agents/completions`) with the messages of chat
completions, and takes messages in the second.
"""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message, TextPart

from llmproxy.reconstruct import chat_request
from llmproxy.reconstruct.chat_delta import ChatSaid
from llmproxy.reconstruct.chat_message import MESSAGE_FIELDS, read_message
from llmproxy.reconstruct.choices import ChoicesMachine
from llmproxy.reconstruct.json_values import Notes, string
from llmproxy.reconstruct.machine import RequestReading

__all__ = ["Machine", "read_request"]

_MAPPED = frozenset({"model", "prompt", "stream"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, understood: a user message for each prompt. Odd fields are skipped and noted."""
    if "prompt" not in body and "messages" in body:
        return chat_request.read_request(body)
    notes = Notes()
    model = body.get("model")
    return RequestReading(
        model=model if isinstance(model, str) else None,
        input=tuple(_prompts(body.get("prompt"), notes)),
        options={key: value for key, value in body.items() if key not in _MAPPED and value is not None},
        notes=tuple(notes),
    )


def _prompts(prompt: Any, notes: Notes) -> list[Message]:
    if prompt is None:
        return []
    prompts = prompt if isinstance(prompt, list) and not _is_tokens(prompt) else [prompt]
    messages: list[Message] = []
    for entry in prompts:
        if isinstance(entry, str):
            messages.append(Message("user", [TextPart(entry)] if entry else []))
        elif isinstance(entry, list) and _is_tokens(entry):
            messages.append(Message("user", [TextPart("", {"openai": {"tokens": entry}})]))
        else:
            notes.add("prompt is neither text nor tokens")
    return messages


def _is_tokens(prompt: list[Any]) -> bool:
    return bool(prompt) and all(type(token) is int for token in prompt)


class Machine(ChoicesMachine):
    """Reads one response. With several prompts the choices of the first come first."""

    def __init__(self) -> None:
        super().__init__(_Completion())


class _Completion:
    object = "text_completion"
    said_in: tuple[str, ...] = ("text", "delta", "message")

    def new(self) -> "_Text":
        return _Text()

    def message(self, choice: Mapping[str, Any], notes: Notes, *, streamed: bool) -> Message:
        given = choice.get("message")
        if isinstance(given, dict):
            fields = tuple(given) if streamed else MESSAGE_FIELDS
            return read_message(given, notes, default_role="assistant", fields=fields)
        text = string(choice.get("text"), "text", notes)
        return Message("assistant", [TextPart(text)] if text else [])


class _Text:
    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._chat: ChatSaid | None = None

    def take(self, chunk: Mapping[str, Any], notes: Notes) -> bool:
        if "text" not in chunk and chunk.get("delta"):
            self._chat = self._chat or ChatSaid()
            return self._chat.take(chunk, notes)
        text = string(chunk.get("text"), "text", notes)
        self._pieces.append(text)
        return bool(text)

    def body(self) -> dict[str, Any]:
        return self._chat.body() if self._chat else {"text": "".join(self._pieces)}
