"""What the mock provider answers: pure functions of the request, so that tests can predict it.

Tokens are counted as one for each 4 characters begun, `ceil(len(text) / 4)`: of each message's text for the prompt; of
the answer, the reasoning and each tool call's name and arguments for the completion.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.inprocess.mock_schema import example_of
from llmproxy.inprocess.openai_request import BadRequest, ChatRequest, Function, ToolChoice

WRONG_ANSWER = "I do not know."
_ARGUMENTS_PIECE = 8
_TAGGED = re.compile(r"\s*<([\w-]+)>.*</\1>\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice of an answer. Its `chunks` joined are its text."""

    chunks: tuple[str, ...]
    finish_reason: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    # Of those that the request gave, the one that the text was cut at.
    stop_sequence: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.chunks)


def answer_for(messages: Sequence[Mapping[str, Any]]) -> str:
    """The answer to a conversation, where the request scripts none.

    After tools' results: `The tool said: RESULT`, several results joined by `; `. Else `You said: TEXT`, where TEXT is
    the last user message without a `/mock {…}` line, or `nothing`. Behind it stands what else there was:
    ` (attachments: 1)` of that message, and ` (earlier messages: 2)` of the user's.
    """
    if results := tool_results(messages):
        return f"The tool said: {'; '.join(results)}"
    users = [message for message in messages if message.get("role") == "user"]
    if not users:
        return "You said: nothing"
    content = users[-1].get("content")
    attachments = sum(part.get("type") != "text" for part in content) if isinstance(content, list) else 0
    answer = f"You said: {split_directive(_said(users[-1]))[1] or 'nothing'}"
    if attachments:
        answer += f" (attachments: {attachments})"
    return answer + (f" (earlier messages: {len(users) - 1})" if len(users) > 1 else "")


def split_directive(text: str) -> tuple[dict[str, Any], str]:
    """The object behind `/mock` at a user message's start, and the text after it. Raises `BadRequest` for broken JSON.

    A text that has none is given back whole.
    """
    if not re.match(r"\s*/mock\s*\{", text):
        return {}, text
    rest = text[text.index("{") :]
    try:
        told, end = json.JSONDecoder().raw_decode(rest)
    except ValueError as exc:
        raise BadRequest(
            f"Invalid value for 'messages': /mock is followed by JSON that breaks: {exc}", "messages"
        ) from exc
    return told, rest[end:].strip()


def structured_answer(request: ChatRequest) -> str | None:
    """The answer as the response format wants it; None where it wants nothing special.

    For a JSON schema the simplest value that fits; for `json_object` the plain answer under `answer`.
    """
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is not None:
        return json.dumps(example_of(wanted.json_schema.value))
    return json.dumps({"answer": answer_for(request.messages)})


def tool_calls_for(request: ChatRequest) -> list[ToolCall]:
    """The calls that a request asks for: of the functions that the last user message names, and with `tool_choice`
    of the named one, or if it is `required` at least of the first. None after a tool's result."""
    functions = [tool.function for tool in request.tools or () if tool.function is not None]
    choice = request.tool_choice
    if not request.tools and (choice == "required" or isinstance(choice, ToolChoice)):
        raise BadRequest("Invalid value for 'tool_choice': it is only allowed with 'tools'.", "tool_choice")
    chosen = [function for function in functions if _mentions(last_user_text(request.messages), function.name)]
    if isinstance(choice, ToolChoice) and choice.function is not None:
        name = choice.function.name
        chosen = [function for function in functions if function.name == name]
        if not chosen:
            raise BadRequest(f"Invalid value for 'tool_choice': '{name}' is not among 'tools'.", "tool_choice")
    elif choice == "required":
        chosen = chosen or functions
    if choice == "none" or tool_results(request.messages):
        return []
    one_only = choice not in (None, "auto") or request.parallel_tool_calls is False
    return [_call_of(function) for function in (chosen[:1] if one_only else chosen)]


def cut_to(chunks: Sequence[str], stops: Sequence[str], limit: int | None) -> tuple[tuple[str, ...], str]:
    """The chunks as `stop` and the limit of tokens leave them, and the finish reason."""
    text = "".join(chunks)
    stop = stop_in(text, stops)
    length = len(text) if stop is None else text.find(stop)
    reason = "stop"
    if limit is not None and tokens(text[:length]) > limit:
        length, reason = limit * 4, "length"
    kept, left = [], length
    for chunk in chunks:
        if left <= 0 and length < len(text):
            break
        kept.append(chunk[: max(left, 0)])
        left -= len(chunk)
    return tuple(kept), reason


def stop_in(text: str, stops: Sequence[str]) -> str | None:
    """Which of the stop sequences comes first in the text."""
    found = [stop for stop in stops if stop and stop in text]
    return min(found, key=text.find, default=None)


def argument_pieces(arguments: str) -> tuple[str, ...]:
    """A call's arguments as they are streamed: at least two pieces, so that even `{}` has to be put together."""
    size = max(1, min(_ARGUMENTS_PIECE, math.ceil(len(arguments) / 2)))
    return tuple(arguments[start : start + size] for start in range(0, len(arguments), size))


def is_right(quality: float, model: str, text: str) -> bool:
    """Whether a model of this quality answers this text well; always the same for the same model and text."""
    return chance(model, text) < quality


def chance(*words: str) -> float:
    """A number from 0 to 1 that is always the same for the same words."""
    digest = hashlib.sha256("\n".join(words).encode(errors="surrogatepass"))
    return int.from_bytes(digest.digest()[:4]) / 2**32


def embedding_of(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that is always the same for the same text."""
    digest = hashlib.shake_256(text.encode(errors="surrogatepass")).digest(dimensions)
    numbers = [byte - 127.5 for byte in digest]
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def words(text: str) -> tuple[str, ...]:
    """The text in chunks of a word each; joined they are the text."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def tokens(text: str) -> int:
    """How many tokens a text costs here: one for each 4 characters begun."""
    return math.ceil(len(text) / 4)


def prompt_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many tokens the messages cost."""
    return sum(tokens(text_of(message)) for message in messages)


def reasoning_tokens(replies: Sequence[Reply]) -> int:
    return sum(tokens(reply.reasoning) for reply in replies)


def completion_tokens(replies: Sequence[Reply]) -> int:
    """How many tokens the choices cost, their reasoning included."""
    calls = sum(tokens(call.name) + tokens(call.arguments) for reply in replies for call in reply.tool_calls)
    return reasoning_tokens(replies) + calls + sum(tokens(reply.text) for reply in replies)


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last user message, "" where there is none."""
    return next((_said(message) for message in reversed(messages) if message.get("role") == "user"), "")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return content or ""


def _said(message: Mapping[str, Any]) -> str:
    """The text of a message without what agents put beside the user's words, each part within a tag, such as Claude
    Code's `<system-reminder>`: it counts only where there is nothing else."""
    content = message.get("content")
    if not isinstance(content, list):
        return text_of(message)
    own = [part for part in content if not _TAGGED.fullmatch(str(part.get("text") or ""))]
    return text_of({"content": own}) or text_of(message)


def tool_results(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of the tools' results that end the conversation."""
    results: list[str] = []
    for message in reversed(messages):
        if message.get("role") not in ("tool", "function"):
            break
        results.insert(0, text_of(message))
    return results


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _call_of(function: Function) -> ToolCall:
    return ToolCall(function.name, json.dumps(example_of(function.parameters or {"type": "object"})))
