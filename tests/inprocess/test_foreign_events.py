"""The lines of a foreign stream: what is understood of them, and what is skipped."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.inprocess.foreign_events import MAX_LINE_BYTES, ForeignEvent, ForeignStream


def read(*pieces: bytes) -> tuple[list[ForeignEvent], int]:
    stream = ForeignStream()
    events = [event for piece in pieces for event in stream.feed(piece)]
    return events + stream.finish(), stream.skipped


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (b"data: {'type': 'response', 'data': 'word'}", "response", "word"),
        (b'data: {"type": "response", "data": "word"}', "response", "word"),
        (b"data: {'type': 'response', 'data': \"don't\"}", "response", "don't"),
        (b"data: {'type': 'response', 'data': ' a\\n\\'b\\''}", "response", " a\n'b'"),
        (b"data:{'type':'citation','data':'id'}", "citation", "id"),
        (b"data: {'type': 'citation', 'data': 17}", "citation", "17"),
        (b'data: {"type": "response", "data": "\xf0\x9f\x8d\x8b", "score": null}', "response", "\N{LEMON}"),
        (b"data: {'type': 'response', 'data': 'a\\d', 'final': True}", "response", "a\\d"),
        ("data: {'type': 'response', 'data': 'a\u2028b\x85c'}".encode(), "response", "a\u2028b\x85c"),
        (b"data: {'type': 'response', 'data': ''}", "response", ""),
    ],
)
def test_what_is_understood(line: bytes, kind: str, text: str) -> None:
    for end in (b"\n\n", b"\n", b"\r\n\r\n", b"\r", b""):
        (event,), skipped = read(line + end)
        assert (event.kind, event.text, skipped) == (kind, text, 0)


@pytest.mark.parametrize(
    "value",
    [
        b"{'type': 'response', 'data': 'don't'}",
        b'{"type": "response", "data": ',
        b"{'type': 'response'}",
        b"{'type': 'response', 'data': None}",
        b"{'type': 'response', 'data': True}",
        b"{'type': 'surprise', 'data': 'x'}",
        b"{'type': ['response'], 'data': 'x'}",
        b"{['type']: 'response'}",
        b"['response', 'x']",
        b"hello",
        b"\0",
        b"__import__('os').abort()",
        b"{'type': 'response', 'data': str(1)}",
        b"{'type': 'response', 'data': 0x" + b"f" * 9000 + b"}",
        b"{'type': 'response', 'data': " + b"-" * 60000 + b"1}",
        b"[" * 200_000,
        b"(" * 60_000,
        b"{'type': 'response', 'data': '" + b"x" * 70_000 + b"'}",
    ],
    ids=lambda value: value[:40].decode(),
)
def test_what_is_skipped_and_counted(value: bytes) -> None:
    events, skipped = read(b"data: " + value + b"\ndata: {'type': 'response', 'data': 'next'}\n")
    assert [event.text for event in events] == ["next"]
    assert skipped == 1


def test_what_says_nothing_is_no_broken_line() -> None:
    assert read(b"\xef\xbb\xbf: hello\nevent: message\nid: 1\nretry: 5\n\ndata:\ndata: [DONE]\n\n") == ([], 0)


def test_a_line_that_does_not_end_is_not_kept() -> None:
    stream = ForeignStream()
    for _ in range(4):
        assert stream.feed(b"x" * (MAX_LINE_BYTES // 2)) == []
    assert len(stream._line) <= MAX_LINE_BYTES
    (event,) = stream.feed(b"\ndata: {'type': 'response', 'data': 'next'}\n")
    assert event.text == "next"
    assert (stream.skipped, stream.first_skipped) == (1, 1)


LINES = (
    b"data: {'type': 'response', 'data': 'a \xf0\x9f\x8d\x8b'}\r\n\r\n: x\ndata: {broken\rdata: "
    b"{\"type\": \"citation\", \"data\": \"d\"}\r\ndata: {'type': 'response', 'data': 'end'}"
)


@given(st.sets(st.integers(0, len(LINES))))
def test_any_split_gives_the_same_events(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(LINES)]
    assert read(*(LINES[a:b] for a, b in itertools.pairwise(edges))) == read(LINES)
    assert read(LINES)[1] == 1
