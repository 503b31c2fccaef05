"""The legacy completions API: its request, and the machine that reads its response."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message, TextPart

from llmproxy.reconstruct.choices import ChoicesMachine
from llmproxy.reconstruct.json_values import Notes, string
from llmproxy.reconstruct.machine import RequestReading

__all__ = ["Machine", "read_request"]

_MAPPED = frozenset({"model", "prompt", "stream"})


def read_request(body: Mapping[str, Any]) -> RequestReading:
    """A request's parsed body, understood: a user message for each prompt. Odd fields are skipped and noted."""
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
    said_in: tuple[str, ...] = ("text",)

    def new(self) -> "_Text":
        return _Text()

    def message(self, choice: Mapping[str, Any], notes: Notes, *, streamed: bool) -> Message:
        text = string(choice.get("text"), "text", notes)
        return Message("assistant", [TextPart(text)] if text else [])


class _Text:
    def __init__(self) -> None:
        self._pieces: list[str] = []

    def take(self, chunk: Mapping[str, Any], notes: Notes) -> bool:
        text = string(chunk.get("text"), "text", notes)
        self._pieces.append(text)
        return bool(text)

    def body(self) -> dict[str, Any]:
        return {"text": "".join(self._pieces)}
