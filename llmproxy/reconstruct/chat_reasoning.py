"""Reasoning in chat completions, which every provider sends in a field of its own."""

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

from llm.parts import ReasoningPart

from llmproxy.reconstruct.json_values import Notes, dump, namespaced, objects, string

# DeepSeek and most others; OpenRouter, Groq, Ollama and others; GitHub Copilot.
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")

# The field that holds a detail's text, by the detail's type. Encrypted ones come whole.
_DETAIL_TEXT = {"reasoning.text": "text", "reasoning.summary": "summary"}


def reasoning_parts(message: Mapping[str, Any], notes: Notes) -> list[ReasoningPart]:
    """The reasoning of a message, once, however many fields repeat it. OpenRouter's details can be sent back."""
    details = objects(message.get("reasoning_details"), "reasoning_details", notes)
    said: dict[str, str] = {}  # text -> the first field that says it
    for field in REASONING_FIELDS:
        text = string(reasoning_text(message.get(field)), field, notes)
        if text:
            said.setdefault(text, field)
    parts = [ReasoningPart(text, provider_metadata={"openai": {"field": field}}) for text, field in said.items()]
    if details:
        if not parts:
            text = "".join(_detail_text(detail) for detail in details)
            parts.append(ReasoningPart(text, redacted=not text))
        metadata = (parts[0].provider_metadata or {}).get("openai", {})
        parts[0].provider_metadata = namespaced("openai", {**metadata, "reasoning_details": details})
    return parts


def reasoning_text(value: Any) -> Any:
    """A reasoning field's value, or the text in the object that Envoy's gateway makes of what Bedrock says."""
    if isinstance(value, dict):
        nested = value.get("reasoningText")
        return (nested if isinstance(nested, dict) else value).get("text") or ""
    return value


def _detail_text(detail: Mapping[str, Any]) -> str:
    kind = detail.get("type")
    text = detail.get(_DETAIL_TEXT.get(kind, "text")) if isinstance(kind, str) else None
    return text if isinstance(text, str) else ""


_ANY = object()
# The type, the index and the id of a detail; each of the last two may be `_ANY`.
_Key = tuple[Any, Any, Any]


class ReasoningDetails:
    """Puts together the `reasoning_details` of deltas: text goes on where type and index, or id, are the same."""

    def __init__(self) -> None:
        self._details: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []
        # What a detail may be found by -> the positions of those that were once found so, negative, as a heap.
        self._found: dict[_Key, list[int]] = {}

    def take(self, detail: Mapping[str, Any]) -> None:
        kind = detail.get("type")
        field = _DETAIL_TEXT.get(kind) if isinstance(kind, str) else None
        position = self._position(detail) if field is not None else None
        if position is None or field is None:
            text = detail.get(field) if field is not None else None
            self._details.append(dict(detail))
            self._texts.append([text] if isinstance(text, str) else [])
            if field is not None:
                self._remember(len(self._details) - 1)
            return
        open_detail = self._details[position]
        before = _keys(open_detail)
        for key, value in detail.items():
            if key == field:
                if isinstance(value, str):
                    self._texts[position].append(value)
            elif value is not None:  # the signature comes with the last one
                open_detail[key] = value
        if _keys(open_detail) != before:
            self._remember(position)

    def body(self) -> list[dict[str, Any]]:
        """The details as they would have come unstreamed."""
        joined = zip(self._details, self._texts, strict=True)
        return [
            {**detail, **({_DETAIL_TEXT[detail["type"]]: "".join(texts)} if texts else {})} for detail, texts in joined
        ]

    def _remember(self, position: int) -> None:
        for key in _keys(self._details[position]):
            heappush(self._found.setdefault(key, []), -position)

    def _position(self, detail: Mapping[str, Any]) -> int | None:
        """Which of the details goes on: the newest of the same type, unless its index or id says it is another."""
        kind, index, identifier = detail.get("type"), _hashable(detail.get("index")), _hashable(detail.get("id"))
        newest: int | None = None
        for key in (
            (kind, an_index, an_id)
            for an_index in ((_ANY,) if index is None else (index, None))
            for an_id in ((_ANY,) if identifier is None else (identifier, None))
        ):
            positions = self._found.get(key, [])
            while positions and key not in _keys(self._details[-positions[0]]):
                heappop(positions)  # it has been given an index or an id since
            if positions and (newest is None or -positions[0] > newest):
                newest = -positions[0]
        return newest


def _keys(detail: Mapping[str, Any]) -> list[_Key]:
    indexes, ids = ((_hashable(detail.get(field)), _ANY) for field in ("index", "id"))
    return [(detail.get("type"), index, identifier) for index in indexes for identifier in ids]


def _hashable(value: Any) -> Any:
    return (dump(value),) if isinstance(value, dict | list) else value
