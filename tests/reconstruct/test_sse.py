import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.reconstruct.sse import EventStream, ServerSentEvent


def event(data: str, name: str = "") -> ServerSentEvent:
    return ServerSentEvent(name, data)


def read(*pieces: bytes) -> list[ServerSentEvent]:
    stream = EventStream()
    events = [event for piece in pieces for event in stream.feed(piece)]
    return events + stream.finish()


CASES: dict[str, tuple[bytes, list[ServerSentEvent]]] = {
    "plain": (b"data: a\n\ndata: b\n\n", [event("a"), event("b")]),
    "no space": (b"data:a\n\n", [event("a")]),
    "only one space is taken": (b"data:  a \n\n", [event(" a ")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [event("a"), event("b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [event("a"), event("b")]),
    "mixed": (b"data: a\n\r\ndata: b\r\n\rdata: c\n\n", [event("a"), event("b"), event("c")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [event("a")]),
    "only the first mark is one": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [event("a"), event("b", "\ufeffdata")]),
    "several lines": (b"data: a\ndata:\ndata: b\n\n", [event("a\n\nb")]),
    "no value": (b"data\n\n", [event("")]),
    "keep-alive": (b"data:\n\ndata: a\n\n", [event(""), event("a")]),
    "comments": (b": ping\n\n:\n\ndata: a\n: between\n\n", [event("a")]),
    "name": (b"event: ping\ndata: a\n\ndata: b\n\n", [event("a", "ping"), event("b")]),
    "name after data": (b"data: a\nevent: ping\n\n", [event("a", "ping")]),
    "name without data": (b"event: ping\n\ndata: a\n\n", [event("a")]),
    "id and retry": (b"id: 7\nretry: 10\ndata: a\n\n", [event("a")]),
    "unknown field (llama-box)": (b'data: a\n\nerror: {"x": 1}\n\n', [event("a"), event('{"x": 1}', "error")]),
    "JSON without a field": (b'data: a\n\n{"error": "x"}\n', [event("a"), event('{"error": "x"}')]),
    "indented field": (b" data: a\n\n", [event("a")]),
    "no last blank line": (b"data: a\n", [event("a")]),
    "no last line end": (b"data: a", [event("a")]),
    "ends with a carriage return": (b"data: a\r", [event("a")]),
    "not UTF-8": (b"data: \xff\n\n", [event("\ufffd")]),
    "not ASCII": ("data: \u00e9\U0001f600\u2028\n\n".encode(), [event("\u00e9\U0001f600\u2028")]),
    "what ends lines elsewhere": (b"data: a\x0b\x0c\x1c\x1d\x1e\xc2\x85b\n\n", [event("a\x0b\x0c\x1c\x1d\x1e\x85b")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", CASES)
def test_events(name: str) -> None:
    body, events = CASES[name]
    assert read(body) == events
    assert read(*(body[at : at + 1] for at in range(len(body)))) == events


@given(
    st.lists(st.sampled_from((b"data: a", b"data:", b"event: e", b":c", b"\r", b"\n", b"\r\n", b"\xc3", b"\xa9", b"{")))
)
def test_any_split_gives_the_same_events(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    assert read(*pieces) == read(body) == read(*(body[at : at + 1] for at in range(len(body))))


def test_an_event_is_given_with_the_bytes_that_complete_it() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\r") == []
    assert stream.feed(b"\n\r") == [event("a")]
    assert stream.feed(b"\ndata: b") == []
    assert stream.feed(b"\n\n") == [event("b")]
    assert stream.finish() == []
