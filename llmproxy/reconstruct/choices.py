"""What chat completions and legacy completions have in common: choices, which come whole or in chunks."""

from collections.abc import Mapping
from typing import Any, Protocol

from llm.parts import Message

from llmproxy.reconstruct.error_message import error_message, is_error
from llmproxy.reconstruct.json_values import Notes, integer, mapping, nonempty, objects
from llmproxy.reconstruct.machine import ResponseReading
from llmproxy.reconstruct.turn import Output
from llmproxy.reconstruct.usage import read_usage

# `choices` and `usage` have their own handling; `obfuscation` is padding against traffic analysis.
_NOT_COPIED = ("choices", "usage", "object", "obfuscation", "value")
_OTHER_IN_EACH_CHUNK = ("choices", "obfuscation")


class Said(Protocol):
    """What one choice says, put together from its chunks."""

    def take(self, chunk: Mapping[str, Any], notes: Notes) -> bool:
        """Take the choice of one chunk. Returns whether it carried output."""
        ...

    def body(self) -> dict[str, Any]:
        """The fields that say it in an unstreamed choice (`message` or `text`)."""
        ...


class ChoiceAPI(Protocol):
    """What differs between the two APIs."""

    object: str
    """The `object` of an unstreamed response."""
    said_in: tuple[str, ...]
    """The fields of a chunk's choice that `Said` reads."""

    def new(self) -> Said: ...

    def message(self, choice: Mapping[str, Any], notes: Notes, *, streamed: bool) -> Message:
        """The message of an unstreamed choice."""
        ...


class _Choice:
    def __init__(self, said: Said, said_in: tuple[str, ...]) -> None:
        self.finish_reason: str | None = None
        self._said = said
        self._mapped = {"index", "finish_reason", "logprobs", *said_in}
        self._logprobs: dict[str, Any] = {}
        self._rest: dict[str, Any] = {}

    def take(self, chunk: Mapping[str, Any], notes: Notes) -> bool:
        reason = chunk.get("finish_reason")
        # Gemini behind OpenRouter finishes twice: `tool_calls`, then `stop`. Snowflake's only word is "".
        if isinstance(reason, str) and (not self.finish_reason or reason == "tool_calls"):
            self.finish_reason = reason
        if (logprobs := chunk.get("logprobs")) is not None:
            self._take_logprobs(mapping(logprobs, "logprobs", notes))
        if not chunk.keys() <= self._mapped:
            for key, value in chunk.items():
                if key not in self._mapped and value is not None:
                    self._rest[key] = value
        return self._said.take(chunk, notes)

    def _take_logprobs(self, logprobs: Mapping[str, Any]) -> None:
        for key, value in logprobs.items():
            known = self._logprobs.get(key)
            if isinstance(value, list) and isinstance(known, list):
                known.extend(value)
            elif value is not None or key not in self._logprobs:
                self._logprobs[key] = list(value) if isinstance(value, list) else value

    def body(self, index: int) -> dict[str, Any]:
        logprobs = {"logprobs": self._logprobs} if self._logprobs else {}
        return {"index": index, **self._said.body(), **logprobs, **self._rest, "finish_reason": self.finish_reason}


class ChoicesMachine:
    """Reads one response. A stream is put together as it would have come unstreamed, then read as such."""

    def __init__(self, api: ChoiceAPI) -> None:
        self._api = api
        self._notes = Notes()
        self._body: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._beside: dict[str, Any] | None = None  # what the last chunk had beside its choices
        self._error: str | None = None
        self._finished = False
        self._streamed = False

    def event(self, name: str, data: Any) -> bool:
        self._streamed = True
        chunk = mapping(data, "event", self._notes)
        if not chunk:
            return False
        beside = {key: value for key, value in chunk.items() if key not in _OTHER_IN_EACH_CHUNK}
        # Mostly what it was, and to take it again would change nothing.
        if beside != self._beside or "choices" not in chunk or name == "error":
            self._beside = beside
            self._take_beside(name, chunk)
        carried = False
        choices = chunk.get("choices")
        if choices is None and "value" in chunk:  # Writer's completions
            choices = [{"text": chunk["value"]}]
        for choice in objects(choices, "choices", self._notes):
            index = integer(choice.get("index"), "choice index", self._notes) or 0
            if (known := self._choices.get(index)) is None:
                known = self._choices[index] = _Choice(self._api.new(), self._api.said_in)
            carried = known.take(choice, self._notes) or carried
            if choice.get("error"):
                self._error = self._error or error_message(choice)
        return carried

    def _take_beside(self, name: str, chunk: Mapping[str, Any]) -> None:
        if name == "error" or is_error(chunk, "choices"):
            self._error = self._error or error_message(chunk)
        elif not chunk.keys() & {"choices", "usage", "value"}:
            self._notes.add(f"unknown event: {name}")
        for key, value in chunk.items():
            # Azure and Copilot begin with an empty id and model; Groq's compound models change the id on the way.
            is_settled = key in ("id", "model") and (not value or self._body.get(key))
            if key == "x_groq" and isinstance(value, dict):  # the usage is in one of several
                self._body[key] = {**mapping(self._body.get(key), key, self._notes), **value}
            elif key not in _NOT_COPIED and value is not None and not is_settled:
                self._body[key] = value
        if chunk.get("usage"):  # cumulative where it comes more than once
            self._body["usage"] = chunk["usage"]

    def done(self) -> None:
        self._finished = True

    def whole(self, body: Any) -> None:
        self._body = dict(mapping(body, "response body", self._notes))
        choices = objects(self._body.get("choices"), "choices", self._notes)
        failed = [choice for choice in choices if choice.get("error")]
        if is_error(self._body, "choices"):
            self._error = error_message(self._body)
        elif failed:
            self._error = error_message(failed[0])
        elif "choices" not in self._body:
            self._notes.add("response has no choices")
        self._finished = True

    def finish(self) -> ResponseReading:
        if self._choices:
            self._body["choices"] = [self._choices[index].body(index) for index in sorted(self._choices)]
        if self._streamed and self._body:
            self._body = {"object": self._api.object, **self._body}
        reasons = [choice.finish_reason for choice in self._choices.values()]
        timings = self._body.get("timings")  # llama.cpp
        return ResponseReading(
            outputs=self._outputs(),
            resolved_model=nonempty(self._body.get("model"), "model", self._notes),
            usage=read_usage(self._usage(), self._notes, {"timings": timings} if timings else None),
            response_json=self._body or None,
            response_id=nonempty(self._body.get("id"), "id", self._notes),
            error=self._error,
            # Perplexity and others send no [DONE].
            finished=self._finished or (bool(reasons) and None not in reasons),
            notes=tuple(self._notes),
        )

    def _outputs(self) -> tuple[Output, ...]:
        outputs: list[Output] = []
        for position, choice in enumerate(objects(self._body.get("choices"), "choices", self._notes)):
            index = integer(choice.get("index"), "choice index", self._notes)
            message = self._api.message(choice, self._notes, streamed=self._streamed)
            reason = choice.get("finish_reason")
            outputs.append(
                Output(
                    index=position if index is None else index,
                    messages=(message,) if message.parts else (),
                    finish_reason=reason if isinstance(reason, str) else None,
                )
            )
        return tuple(sorted(outputs, key=lambda output: output.index))

    def _usage(self) -> Any:
        if usage := self._body.get("usage"):
            return usage
        if usage := mapping(self._body.get("x_groq"), "x_groq", self._notes).get("usage"):
            return usage
        # Moonshot puts it into the choice that finishes a stream.
        in_choices = [choice.get("usage") for choice in objects(self._body.get("choices"), "choices", self._notes)]
        return next(filter(None, reversed(in_choices)), None)
