from typing import Any

import pytest

from llmproxy.reconstruct.json_values import (
    MAX_DEPTH,
    Notes,
    integer,
    mapping,
    objects,
    parse,
    sequence,
    string,
    without_empty,
)
from llmproxy.reconstruct.turn import NotReconstructed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', {"a": "é"}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b' \t\r\n{"a": 1} \t\r\n', {"a": 1}),
        (b"[NaN, -Infinity, 1]", [None, None, 1]),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ('["' + "[" * 1000 + '"]', ["[" * 1000]),
        ("[[]" + ", []" * 1000 + "]", [[]] * 1001),
    ],
)
def test_parse(text: bytes | str, value: Any) -> None:
    parsed = parse(text, "body")
    assert value is None or parsed == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "body is not JSON"),
        (b"{", "body is not JSON"),
        (b"{} {}", "body is not JSON"),
        ("\u2003{}", "body is not JSON"),
        (b"1" * 5000, "body is not JSON"),
        (b"\xff", "body is not UTF-8"),
        (b"[" * 10_000, "body is nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "body is nested too deeply"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "body is nested too deeply"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "body is nested too deeply"),
    ],
)
def test_parse_refuses(text: bytes | str, reason: str) -> None:
    with pytest.raises(NotReconstructed) as caught:
        parse(text, "body")
    assert caught.value.reason == reason


def test_fields_of_the_wrong_type_are_noted() -> None:
    notes = Notes()
    assert (mapping([], "a", notes), sequence({}, "b", notes), string(1, "c", notes)) == ({}, [], "")
    assert objects([1, {"x": 1}], "d", notes) == [{"x": 1}]
    assert [integer(value, "e", notes) for value in (3, 3.0, True, 2**63, "3", 1.5)] == [3, 3, None, None, None, None]
    assert list(notes) == [
        "a is not an object",
        "b is not an array",
        "c is not a string",
        "d holds what is not an object",
        "e is not an integer of 64 bits",
    ]


def test_null_is_nothing_to_note() -> None:
    notes = Notes()
    assert (mapping(None, "a", notes), sequence(None, "b", notes), string(None, "c", notes)) == ({}, [], "")
    assert integer(None, "d", notes) is None
    assert not list(notes)


def test_notes_are_bounded() -> None:
    notes = Notes(["same", "same"])
    notes.extend(str(number) * 1000 for number in range(1000))
    kept = list(notes)
    assert kept[0] == "same" and len(kept) == 64 and max(map(len, kept)) == 200


def test_zero_and_false_say_something() -> None:
    assert without_empty({"a": None, "b": "", "c": [], "d": {}, "e": 0, "f": False}) == {"e": 0, "f": False}
