"""The content of a chat completion's message put together from the deltas of its stream."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmproxy.reconstruct.json_values import Notes, dump, objects

# A block of thinking -> the list in which its text stands, and the type of the list's entries. Mistral sends the one,
# Databricks the other.
_THOUGHTS = {"thinking": ("thinking", "text"), "reasoning": ("summary", "summary_text")}
_TEXT = {"type": "text"}


@dataclass(slots=True)
class _Block:
    fields: dict[str, Any]
    entry: dict[str, Any] = field(default_factory=dict)  # what stands beside a thought's text
    pieces: list[str] = field(default_factory=list)
    is_plain: bool = False  # a thought's text is no list


class ContentDeltas:
    """Text, or the list of text and thoughts that some reasoning models send. Each goes on with its like."""

    def __init__(self) -> None:
        self._is_list = False
        self._blocks: list[_Block] = []

    def take(self, value: Any, notes: Notes) -> bool:
        """Take a delta's content. Returns whether it said anything."""
        if isinstance(value, dict) and "type" not in value:
            value = dump(value)  # structured output, in one chunk
        if isinstance(value, str):
            if self._blocks and self._blocks[-1].fields == _TEXT:
                self._blocks[-1].pieces.append(value)
                return bool(value)
            return self._go_on(_Block(dict(_TEXT), pieces=[value]))
        self._is_list = True
        carried = False
        for given in [value] if isinstance(value, dict) else objects(value, "content", notes):
            block = _read(given)
            if block is None:
                self._blocks.append(_Block(dict(given)))
                carried = True
            else:
                carried = self._go_on(block) or carried
        return carried

    def body(self) -> Any:
        """The content as it would have come unstreamed."""
        if not self._is_list:
            return "".join("".join(block.pieces) for block in self._blocks)
        return [_built(block) for block in self._blocks]

    def _go_on(self, block: _Block) -> bool:
        says = any(block.pieces)
        if self._blocks and _goes_on(self._blocks[-1], block):
            known = self._blocks[-1]
            known.fields.update(block.fields)
            known.entry.update(block.entry)
            known.pieces += block.pieces
        elif says or block.entry or len(block.fields) > 1:
            self._blocks.append(block)
        return says


def beside_text(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the entries of a thought say besides its text, such as its signature."""
    return {key: value for entry in entries for key, value in entry.items() if key not in ("type", "text") and value}


def _goes_on(known: _Block, block: _Block) -> bool:
    # A thought that has its signature is whole.
    is_signed = (known.fields.get("signature") or known.entry.get("signature")) and any(block.pieces)
    return known.fields.get("type") == block.fields.get("type") and not is_signed


def _read(given: Mapping[str, Any]) -> _Block | None:
    """A block of text or of thinking; None for any other."""
    kind = given.get("type")
    if kind == "text":
        text = given.get("text")
        return _Block({"type": "text"}, pieces=[text if isinstance(text, str) else ""])
    if not isinstance(kind, str) or kind not in _THOUGHTS:
        return None
    section, _ = _THOUGHTS[kind]
    said = given.get(section)
    entries = [entry for entry in said if isinstance(entry, dict)] if isinstance(said, list) else [{"text": said}]
    texts = [entry.get("text") for entry in entries]
    return _Block(
        {key: value for key, value in given.items() if key != section and value is not None},
        beside_text(entries),
        [text for text in texts if isinstance(text, str)],
        isinstance(said, str),
    )


def _built(block: _Block) -> dict[str, Any]:
    kind = block.fields.get("type")
    text = "".join(block.pieces)
    if kind == "text":
        return {**block.fields, "text": text}
    if not isinstance(kind, str) or kind not in _THOUGHTS:
        return block.fields
    section, entry_type = _THOUGHTS[kind]
    if block.is_plain:
        return {**block.fields, section: text}
    return {**block.fields, section: [{"type": entry_type, "text": text, **block.entry}]}
