"""An answer's text as the model wrote it, out of what agents make of it when they send it back.

Seen in requests: thoughts put into the text as `<think>` (pydantic-ai and others) or cut out of it, the tool's result
added (CrewAI) or cut off (LangChain), a tool's input written as Python writes it (LlamaIndex), the tool calls written
into the text and the end of a code block that the stop sequence cut off (smolagents), the fence around a code block
left out, an object written anew by a client that had parsed it, typographic quotes and dashes written in ASCII, words
put in place of no text at all, which some APIs refuse (ellmer, chatlas, Claude Code).
"""

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from llm.parts import ToolCallPart

from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.json_values import Notes, too_deep

# Python's parser takes some hundred times the memory of what it reads.
_READ_AS_PYTHON = 256 * 1024
_CODE_ENDS = ("<end_code>", "</code>", "```")
_NOTHING = ("[empty string]", "(no content)")
_FENCE = re.compile(r"```[\w+.-]*[ \t]*\r?\n")
# The tags around the thoughts that some models write into their text, and never end them without having begun.
_THOUGHTS = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
_ASCII = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--", "\u2026": "..."}


def own_text(texts: Iterable[str]) -> str:
    """The text of an answer without what agents add to it and leave out of it."""
    text = _without_thoughts("".join(_react(text) for text in texts)).strip()
    for end in _CODE_ENDS:
        text = text.removesuffix(end).rstrip()
    if text in _NOTHING:
        return ""
    fence = _FENCE.match(text)
    return in_ascii(canonical_json(text[fence.end() :] if fence else text))


def canonical_json(text: str) -> str:
    """A text that is a JSON object or array, or a Python literal that is worth one, in one form: clients that parse an
    answer write it anew with other space, order of keys and escapes. Any other text as it is."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")) and not (text.startswith("[") and text.endswith("]")):
        return text
    value = _literal(text)
    if not isinstance(value, dict | list) or too_deep(value, text):
        return text
    return json.dumps(plain_numbers(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def plain_numbers(value: Any) -> Any:
    """A JSON value with 1 for 1.0, as JavaScript writes it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: plain_numbers(item) for key, item in value.items()}
    return [plain_numbers(item) for item in value] if isinstance(value, list) else value


def in_ascii(text: str) -> str:
    """A text with ASCII's quotes and dashes for typographic ones, and each letter, digit and space in its plain form
    (NFKC)."""
    if text.isascii():
        return text
    for typographic, plain in _ASCII.items():
        text = text.replace(typographic, plain)
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def without_recital(text: str) -> tuple[str, list[ToolCallPart]]:
    """A text without the tool calls that smolagents writes at its end, and the calls among them that the model made.

    The others it reads out of the text itself: a piece of code, or a call written as JSON.
    """
    said, _, recited = text.rpartition("Calling tools:\n")
    calls = _literal(recited) if recited.startswith("[{'id': ") else None
    if not isinstance(calls, list):
        return text, []
    return said, [part for part in map(_call, calls) if part is not None and not _is_read_out(part, said)]


def _call(recited: Any) -> ToolCallPart | None:
    match recited:
        case {"id": str(identifier), "function": {"name": str(name), "arguments": arguments}}:
            return call_part(name, arguments, identifier, Notes())
    return None


def _is_read_out(part: ToolCallPart, said: str) -> bool:
    is_code = part.name == "python_interpreter" and "code" not in part.arguments
    return is_code or f'"{part.name}"' in said


def _react(text: str) -> str:
    """A ReAct agent's text up to the tool's result, which CrewAI adds to the text, and which LangChain cuts off where
    the model made it up; with the tool's input in one form."""
    said, observed, _ = text.partition("\nObservation:")
    is_action = "\nAction" in said or said.startswith("Action")
    if observed and is_action:
        text = said
    action, _, written = text.rpartition("\nAction Input:")
    given = _literal(written) if action and is_action else None
    return f"{action}\nAction Input:{json.dumps(given, sort_keys=True)}" if isinstance(given, dict) else text


def _without_thoughts(text: str) -> str:
    """Without `<think>…</think>`, within which some models' text begins, and what other models write for it."""
    *thoughts, rest = text.split("</think>")
    said = (before if opened else "" for before, opened, _ in (thought.partition("<think>") for thought in thoughts))
    text = "".join((*said, rest))
    for opening, closing in _THOUGHTS:
        text = "".join(_outside(text, opening, closing))
    return text


def _outside(text: str, opening: str, closing: str) -> Iterator[str]:
    at = 0
    while (begin := text.find(opening, at)) >= 0 and (end := text.find(closing, begin)) >= 0:
        yield text[at:begin]
        at = end + len(closing)
    yield text[at:]


def _literal(text: str) -> Any:
    """What is written as JSON, or in Python and is nothing that JSON has not; None for neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _READ_AS_PYTHON:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        try:
            return json.loads(json.dumps(ast.literal_eval(text.strip())))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
