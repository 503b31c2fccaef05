from typing import Any

import pytest
from llm import Attachment, Tool
from llm.parts import AttachmentPart, Message, TextPart

from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.text import parse_object, storable

REPLACED = ["lone surrogate replaced"]


@pytest.mark.parametrize(
    ("value", "kept", "notes"),
    [
        ("plain", "plain", []),
        ("a\0b", "a\0b", []),
        ("\U0001f600 \ufffd", "\U0001f600 \ufffd", []),
        ("\ud83d" + "\ude00", "\U0001f600", []),
        ("\ud83d", "\ufffd", REPLACED),
        ("\ude00\ud83d\ufffd", "\ufffd\ufffd\ufffd", REPLACED),
        ({"\ud83d": ["\ud83d"]}, {"\ufffd": ["\ufffd"]}, REPLACED),
        ({chr(0xD83D): 1, chr(0xDE00): 2}, {"\ufffd": 2}, REPLACED),
        ([1e999, 1.5, True, None], [None, 1.5, True, None], ["infinite number replaced by null"]),
        (("\ud83d",), ("\ufffd",), REPLACED),
        (
            Message("user", [TextPart("\ud83d", {"a": "\ud83d"})]),
            Message("user", [TextPart("\ufffd", {"a": "\ufffd"})]),
            REPLACED,
        ),
        (Tool("\ud83d"), Tool("\ufffd"), REPLACED),
        (
            AttachmentPart(Attachment(type="a/b", url="http://\ud83d")),
            AttachmentPart(Attachment(type="a/b", url="http://\ufffd")),
            REPLACED,
        ),
    ],
)
def test_storable(value: Any, kept: Any, notes: list[str]) -> None:
    seen = Notes()
    assert storable(value, seen) == kept
    assert list(seen) == notes


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a": NaN}', "[" * 10_000, '{"a":' * 300 + "1" + "}" * 300])
def test_text_that_is_no_object(text: str) -> None:
    assert parse_object(text, Notes()) is None


def test_an_object_inside_text_is_storable() -> None:
    notes = Notes()
    assert parse_object(r'{"a\udc00": "\\ud83d", "b": "\ud83d\ude00", "c": "\ud83d"}', notes) == {
        "a\ufffd": r"\ud83d",
        "b": "\U0001f600",
        "c": "\ufffd",
    }
    assert list(notes) == REPLACED


def test_what_needs_no_change_is_not_copied() -> None:
    message = Message("user", [TextPart("é", {"a": [1, {"b": "\U0001f600"}]})])
    assert storable(message, Notes()) is message
