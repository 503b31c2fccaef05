"""The chat completions API: its request, and the machine that reads its response."""

from collections.abc import Mapping
from typing import Any

from llm.parts import Message

from llmproxy.reconstruct.chat_delta import ChatSaid
from llmproxy.reconstruct.chat_message import MESSAGE_FIELDS, read_message
from llmproxy.reconstruct.chat_request import read_request
from llmproxy.reconstruct.choices import ChoicesMachine
from llmproxy.reconstruct.json_values import Notes, mapping
from llmproxy.reconstruct.machine import RequestReading

__all__ = ["Machine", "read_request"]


class Machine(ChoicesMachine):
    """Reads one response. The request tells in which format it asked the model to speak."""

    def __init__(self, request: RequestReading | None = None) -> None:
        audio = request.options.get("audio") if request is not None else None
        audio_format = audio.get("format") if isinstance(audio, dict) else None
        super().__init__(_Chat(audio_format if isinstance(audio_format, str) else ""))


class _Chat:
    object = "chat.completion"
    # Perplexity repeats the whole `message` in each chunk, Together the delta's content as `text`.
    said_in: tuple[str, ...] = ("delta", "message", "text")

    def __init__(self, audio_format: str) -> None:
        self._audio_format = audio_format

    def new(self) -> ChatSaid:
        return ChatSaid()

    def message(self, choice: Mapping[str, Any], notes: Notes, *, streamed: bool) -> Message:
        given = mapping(choice.get("message"), "message", notes)
        return read_message(
            given,
            notes,
            default_role="assistant",
            fields=tuple(given) if streamed else MESSAGE_FIELDS,
            audio_format=self._audio_format,
        )
