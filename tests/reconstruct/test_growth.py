"""What a peer may make long costs in proportion to its length: counted in steps of the interpreter, not in seconds."""

import gzip
import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.reconstruct import Api, Reconstruction
from llmproxy.reconstruct.chat_reasoning import ReasoningDetails
from llmproxy.reconstruct.chat_tool_calls import ToolCallDeltas
from llmproxy.reconstruct.decoding import ContentDecoder
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.object_text import JSONObjectText
from llmproxy.store.condense import condensed

SSE = [(b"content-type", b"text/event-stream")]


def steps(work: Callable[[], object]) -> int:
    """How many bytecode instructions of ours run."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def read(api: Api, events: list[Any]) -> int:
    """How many parts the answer has."""
    reconstruction = Reconstruction(api, request_headers=[], request_body=b'{"model": "m"}')
    reconstruction.response(200, SSE)
    for event in events:
        reconstruction.feed(b"data: " + json.dumps(event).encode() + b"\n\n", 1)
    return sum(len(m.parts) for output in reconstruction.finish(complete=True).outputs for m in output.messages)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def detail(index: int) -> dict[str, Any]:
    return delta(reasoning_details=[{"type": "reasoning.text", "index": index, "text": "x"}])


def named(arguments: str) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": arguments}}])


def block(index: int) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": f"{index}"}}


def item_text(index: int) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": f"i{index}", "delta": "x"}


def part_text(index: int) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "i", "content_index": index, "delta": "x"}


LONG: dict[str, Callable[[int], object]] = {
    "reasoning details": lambda n: read("chat.completions", [detail(index) for index in range(n)]),
    "tool calls": lambda n: read("chat.completions", [delta(tool_calls=[{"index": index} for index in range(n)])]),
    "condensed": lambda n: condensed(
        [f"{i}{'x' * 99}" for i in range(n)], {f"k{i}": f"{i}{'y' * 50}" for i in range(n)}
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_twice_as_much_takes_twice_as_long(name: str) -> None:
    assert steps(lambda: LONG[name](1600)) < 3 * steps(lambda: LONG[name](800))


def test_many_of_everything() -> None:
    """What the interpreter does in one step of its own is not counted above; these took seconds to minutes each."""
    n = 20_000
    assert read("messages", [block(index) for index in range(n)]) == n
    assert read("responses", [item_text(index) for index in range(n)]) == n
    assert read("responses", [part_text(index) for index in range(n)]) == n
    assert read("chat.completions", [named('{"a":"'), *[named("x")] * n]) == 1
    decoder = ContentDecoder(["gzip"], "body")
    assert decoder.feed(gzip.compress(b"a") * 4 * n) == b"a" * 4 * n
    assert decoder.feed(b"junk" * n) + decoder.finish() == b""
    reconstruction = Reconstruction("chat.completions", request_headers=[], request_body=b"{}")
    reconstruction.response(200, [])
    for piece in (b"\xef", b"\xbb\xbf", *[b" " * 100] * n, b'{"choices": [{}]}'):
        reconstruction.feed(piece, 1)
    assert len(reconstruction.finish(complete=True).outputs) == 1


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["reasoning.text", "reasoning.summary"]), "text": st.just("x")},
            optional={
                "index": st.sampled_from([None, 0, 1, {"a": []}]),
                "id": st.sampled_from([None, "a", "b"]),
            },
        ),
        max_size=12,
    )
)
def test_a_reasoning_detail_goes_on_with_the_newest_that_it_may_be(given_details: list[dict[str, Any]]) -> None:
    expected: list[dict[str, Any]] = []
    details = ReasoningDetails()
    for each in given_details:
        details.take(each)
        for earlier in reversed(expected):
            if earlier["type"] == each["type"] and all(
                earlier.get(key) is None or each.get(key) is None or earlier[key] == each[key]
                for key in ("index", "id")
            ):
                earlier.update({key: value for key, value in each.items() if value is not None})
                break
        else:
            expected.append(dict(each))
    without_text = [{key: value for key, value in each.items() if key not in ("text", "summary")} for each in expected]
    assert [
        {key: value for key, value in each.items() if key not in ("text", "summary")} for each in details.body()
    ] == without_text


@given(
    st.lists(
        st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from(["", "a", "b"]), st.sampled_from(["", "f", "g"])),
        max_size=12,
    )
)
def test_a_tool_call_goes_on_with_the_newest_that_it_may_be(deltas: list[tuple[int | None, str, str]]) -> None:
    expected: list[Any] = []

    def continued(index: int | None, call_id: str, name: str) -> Any:
        for call in reversed(expected):
            if index is not None and call["index"] is not None:
                if call["index"] == index:
                    return None if call_id and call["id"] and call_id != call["id"] else call
            elif call_id:
                if call["id"] == call_id or not (call["id"] or name):
                    return call
            else:
                return call
        return None

    calls = ToolCallDeltas()
    for index, call_id, name in deltas:
        calls.take({"index": index, "id": call_id, "function": {"name": name}}, Notes())
        call = continued(index, call_id, name)
        if call is None or (not call_id and name and call["name"] and name != call["name"]):
            call = {"index": index, "id": call_id, "name": name}
            expected.append(call)
        call["id"] = call["id"] or call_id
        call["name"] = call["name"] or name
    assert [(call["id"], call["function"]["name"]) for call in calls.body()] == [
        (call["id"], call["name"]) for call in expected
    ]


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", False),
        (" {} \n", True),
        ('{"a": {"b": "}\\"}"}}', True),
        ('{"a": "\\\\"}', True),
        ('{"a": "\\\\\\"}', False),
        ('{"a": {}', False),
        ("{}x", False),
        ("{} {}", False),
        ("}{", False),
        ("[{}]", False),
        ('{"a": }', False),
    ],
)
def test_an_object_in_pieces(text: str, is_whole: bool) -> None:
    pieces = JSONObjectText()
    for at, piece in enumerate(text):
        pieces.append(piece)
        assert at % 2 or pieces.is_whole() in (True, False)
    assert (pieces.is_whole(), str(pieces)) == (is_whole, text)
    whole = JSONObjectText()
    whole.append(text)
    assert whole.is_whole() == is_whole
