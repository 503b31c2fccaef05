import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.anthropic_messages import Machine
from llmproxy.reconstruct.machine import ResponseReading
from llmproxy.reconstruct.turn import Output, Usage

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-2",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hello", "citations": [{"cited_text": "a"}, {"cited_text": "b"}]},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 7, "service_tier": "standard", "output_tokens": 20},
}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **fields}}


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


STARTED = {
    "type": "message_start",
    "message": {
        **MESSAGE,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 7, "service_tier": "standard", "output_tokens": 1},
    },
}
STREAM: list[dict[str, Any]] = [
    STARTED,
    start(0, type="thinking", thinking="", signature=""),
    {"type": "ping"},
    delta(0, "thinking", thinking="h"),
    delta(0, "thinking", thinking="m"),
    delta(0, "signature", signature="sig"),
    stop(0),
    start(1, type="text", text="", citations=[]),
    delta(1, "citations", citation={"cited_text": "a"}),
    delta(1, "text", text="Hel"),
    delta(1, "text", text="lo"),
    delta(1, "citations", citation={"cited_text": "b"}),
    stop(1),
    start(2, type="tool_use", id="t", name="f", input={}),
    delta(2, "input_json", partial_json=""),
    delta(2, "input_json", partial_json='{"a"'),
    delta(2, "input_json", partial_json=": 1}"),
    stop(2),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 20},
    },
    {"type": "message_stop"},
]


def read(events: Iterable[Any]) -> ResponseReading:
    machine = Machine()
    for data in events:
        machine.event("", data)
    return machine.finish()


def whole(body: Any) -> ResponseReading:
    machine = Machine()
    machine.whole(body)
    return machine.finish()


def said(reading: ResponseReading) -> list[Any]:
    return [part for output in reading.outputs for message in output.messages for part in message.parts]


def test_whole() -> None:
    parts = [
        ReasoningPart("hm", provider_metadata={"anthropic": {"signature": "sig"}}),
        TextPart("Hello", {"anthropic": {"citations": [{"cited_text": "a"}, {"cited_text": "b"}]}}),
        ToolCallPart("f", {"a": 1}, "t"),
    ]
    assert whole(MESSAGE) == ResponseReading(
        outputs=(Output(0, (Message("assistant", parts),), "tool_use"),),
        resolved_model="claude-2",
        usage=Usage(10, 20, {"cache_read_input_tokens": 7, "service_tier": "standard"}),
        response_json=MESSAGE,
        response_id="msg_1",
        finished=True,
    )


def test_a_stream_is_what_it_would_have_been_unstreamed() -> None:
    assert read(STREAM) == whole(MESSAGE)


def test_events_named_only_by_their_field() -> None:
    machine = Machine()
    for data in STREAM:
        machine.event(data["type"], {key: value for key, value in data.items() if key != "type"})
    assert machine.finish() == whole(MESSAGE)


def test_every_cut_is_a_partial_turn() -> None:
    for count in range(len(STREAM)):
        reading = read(STREAM[:count])
        assert not reading.finished
        assert "Hello".startswith("".join(part.text for part in said(reading) if isinstance(part, TextPart)))


def test_cut_input_stays_text() -> None:
    reading = read(STREAM[:16])
    assert said(reading)[-1] == ToolCallPart("f", {}, "t", provider_metadata={"llmproxy": {"arguments": '{"a"'}})
    assert reading.response_json["content"][2]["input"] == '{"a"'


def test_input_that_came_with_the_start() -> None:
    events = [
        STARTED,
        start(0, type="tool_use", id="t", name="f", input={"a": 1}),
        delta(0, "input_json", partial_json=""),
    ]
    assert said(read(events)) == [ToolCallPart("f", {"a": 1}, "t")]


def test_blocks_that_come_whole() -> None:
    reading = read(
        [
            STARTED,
            start(0, type="redacted_thinking", data="d"),
            start(1, type="web_search_tool_result", tool_use_id="s", content=[{"url": "u"}]),
        ]
    )
    assert said(reading) == [
        ReasoningPart("", provider_metadata={"anthropic": {"type": "redacted_thinking", "data": "d"}}),
        ToolResultPart("web_search", '[{"url": "u"}]', "s", server_executed=True),
    ]


def test_compaction_is_kept_beside_what_was_said() -> None:
    said = {"content": "so far", "encrypted_content": "e"}
    reading = read([STARTED, start(0, type="compaction", content=None), delta(0, "compaction", **said)])
    assert reading.response_json["content"] == [{"type": "compaction", **said}]


def test_deltas_without_a_start() -> None:
    assert said(read([delta(0, "text", text="Hi")])) == [TextPart("Hi")]


def test_an_index_that_every_block_begins_with() -> None:
    reading = read(
        [
            start(0, type="text", text=""),
            delta(0, "text", text="a"),
            stop(0),
            start(0, type="tool_use", id="t", name="f", input={}),
            delta(0, "input_json", partial_json='{"a": 1}'),
        ]
    )
    assert said(reading) == [TextPart("a"), ToolCallPart("f", {"a": 1}, "t")]


def test_last_usage_wins_key_by_key() -> None:
    again = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9, "input_tokens": None}}
    reading = read([STARTED, again, {**again, "usage": {"output_tokens": 12, "cache_read_input_tokens": 8}}])
    assert reading.usage == Usage(10, 12, {"cache_read_input_tokens": 8, "service_tier": "standard"})


def test_fields_of_the_last_delta_join_the_message() -> None:
    last = {"type": "message_delta", "delta": {"container": {"id": "k"}}, "context_management": {"applied_edits": []}}
    reading = read([STARTED, last])
    assert reading.response_json["container"] == {"id": "k"}
    assert reading.response_json["context_management"] == {"applied_edits": []}


def test_nothing_said() -> None:
    reading = whole({**MESSAGE, "content": [], "stop_reason": "end_turn"})
    assert reading.outputs == (Output(0, (), "end_turn"),)


def test_error_ends_the_stream() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reading = read([*STREAM[:10], error])
    assert reading.error == "Overloaded"
    assert said(reading)[-1].text == "Hel"
    assert reading.finished
    assert read([error]).outputs == ()
    assert whole(error).error == "Overloaded"


def test_done_ends_the_stream() -> None:
    """OpenRouter appends it (e453780ddb-00)."""
    machine = Machine()
    machine.event("", STARTED)
    machine.done()
    assert machine.finish().finished


def test_first_output() -> None:
    machine = Machine()
    assert [machine.event("", data) for data in STREAM].index(True) == 3


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"type": "dream"}, "unknown event: dream"),
        ({"type": "content_block_delta", "delta": {"type": "dream_delta"}}, "unknown delta: dream_delta"),
        ([], "event is not an object"),
    ],
)
def test_what_is_not_known_is_noted(data: Any, note: str) -> None:
    assert read([data]).notes == (note,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["type", "index", "delta", "content_block", "message", "usage", "error"])


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(STREAM), st.dictionaries(KEYS, JSON, max_size=2)), max_size=8))
def test_any_json_in_any_event(stream: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    json.dumps(read([{**data, **odd} for data, odd in stream]).response_json)


@settings(max_examples=200)
@given(JSON | st.dictionaries(st.sampled_from([*MESSAGE, "error"]), JSON))
def test_any_json_as_body(body: Any) -> None:
    whole(body)
    read([body])
