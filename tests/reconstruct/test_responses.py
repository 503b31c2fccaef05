import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart

from llmproxy.reconstruct.machine import ResponseReading
from llmproxy.reconstruct.responses import Machine
from llmproxy.reconstruct.turn import Output, Usage

MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "model": "m-2",
    "status": "completed",
    "error": None,
    "output": [MESSAGE, CALL],
    "usage": {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    },
}
STARTED = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


STREAM: list[dict[str, Any]] = [
    event("created", response=STARTED),
    event("in_progress", response=STARTED),
    event("output_item.added", output_index=0, item={**MESSAGE, "content": [], "status": "in_progress"}),
    event("content_part.added", output_index=0, content_index=0, item_id="msg_1", part={"type": "output_text"}),
    event("output_text.delta", output_index=0, content_index=0, item_id="msg_1", delta="Hel", obfuscation="x"),
    event("output_text.delta", output_index=0, content_index=0, item_id="msg_1", delta="lo"),
    event("output_text.done", output_index=0, content_index=0, item_id="msg_1", text="Hello"),
    event("content_part.done", output_index=0, content_index=0, item_id="msg_1", part=MESSAGE["content"][0]),
    event("output_item.done", output_index=0, item=MESSAGE),
    event("output_item.added", output_index=1, item={**CALL, "arguments": ""}),
    event("function_call_arguments.delta", output_index=1, item_id="fc_1", delta='{"a"'),
    event("function_call_arguments.delta", output_index=1, item_id="fc_1", delta=":1}"),
    event("function_call_arguments.done", output_index=1, item_id="fc_1", arguments='{"a":1}'),
    event("output_item.done", output_index=1, item=CALL),
    event("completed", response=RESPONSE),
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
    assert whole(RESPONSE) == ResponseReading(
        outputs=(
            Output(0, (Message("assistant", [TextPart("Hello"), ToolCallPart("f", {"a": 1}, "c1")]),), "completed"),
        ),
        resolved_model="m-2",
        usage=Usage(10, 5, {"output_tokens_details": {"reasoning_tokens": 3}}),
        response_json=RESPONSE,
        response_id="resp_1",
        finished=True,
    )


def test_a_stream_is_what_it_would_have_been_unstreamed() -> None:
    assert read(STREAM) == whole(RESPONSE)


def test_final_output_may_be_empty() -> None:
    """chatgpt.com/backend-api/codex; sipeed/picoclaw#2674."""
    assert read([*STREAM[:-1], event("completed", response={**RESPONSE, "output": []})]) == whole(RESPONSE)


def test_events_named_only_by_their_field() -> None:
    machine = Machine()
    for data in STREAM:
        machine.event(data["type"], {key: value for key, value in data.items() if key != "type"})
    assert machine.finish() == whole(RESPONSE)


def test_every_cut_is_a_partial_turn() -> None:
    for count in range(len(STREAM)):
        reading = read(STREAM[:count])
        assert not reading.finished
        text = "".join(part.text for part in said(reading) if isinstance(part, TextPart))
        assert "Hello".startswith(text)
        assert all(output.finish_reason is None for output in reading.outputs)


def test_cut_inside_a_call() -> None:
    reading = read(STREAM[:11])
    assert said(reading) == [
        TextPart("Hello"),
        ToolCallPart("f", {}, "c1", provider_metadata={"llmproxy": {"arguments": '{"a"'}}),
    ]
    assert reading.response_json["output"][1]["arguments"] == '{"a"'
    assert reading.response_json["status"] == "in_progress"


def test_deltas_alone() -> None:
    reading = read(
        [
            event("reasoning_summary_text.delta", output_index=0, summary_index=0, delta="one"),
            event("reasoning_summary_text.delta", output_index=0, summary_index=1, delta="two"),
            event("refusal.delta", output_index=1, content_index=0, delta="no"),
        ]
    )
    reasoning, refusal = said(reading)
    assert isinstance(reasoning, ReasoningPart)
    assert reasoning.text == "onetwo"
    assert refusal == TextPart("no", {"openai": {"refusal": True}})


@pytest.mark.parametrize("key", ["output_index", "item_id"])
def test_interleaved_items_by_either_key(key: str) -> None:
    calls: list[Any] = [{"output_index": 0}, {"output_index": 1}]
    if key == "item_id":
        calls = [{"item_id": "a"}, {"item_id": "b"}]
    added = [
        event("output_item.added", item={**CALL, "id": identifier, "call_id": identifier, "arguments": ""}, **place)
        for identifier, place in zip("ab", calls if key == "output_index" else [{}, {}], strict=True)
    ]
    deltas = [
        event("function_call_arguments.delta", delta=delta, **calls[index])
        for index, delta in [(0, '{"x"'), (1, '{"y"'), (0, ":1}"), (1, ":2}")]
    ]
    assert said(read([*added, *deltas])) == [ToolCallPart("f", {"x": 1}, "a"), ToolCallPart("f", {"y": 2}, "b")]


def test_item_ids_that_change_from_event_to_event() -> None:
    """GitHub Copilot."""
    events = [
        event("output_item.added", output_index=0, item={**MESSAGE, "id": "1", "content": []}),
        event("output_text.delta", output_index=0, content_index=0, item_id="2", delta="Hello"),
        event("output_item.done", output_index=0, item={**MESSAGE, "id": "3"}),
    ]
    assert said(read(events)) == [TextPart("Hello")]


def test_indexes_that_never_count_up() -> None:
    events = [
        event("output_item.added", output_index=0, item={**MESSAGE, "content": []}),
        event("output_item.done", output_index=0, item=MESSAGE),
        event("output_item.added", output_index=0, item={**CALL, "arguments": ""}),
        event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta='{"a":1}'),
        event("output_item.done", output_index=0, item=CALL),
    ]
    assert said(read(events)) == said(whole(RESPONSE))
    assert said(read(events[:-1])) == said(whole(RESPONSE))


def test_failed() -> None:
    error = {"code": "insufficient_quota", "message": "You exceeded your current quota"}
    failed = event("failed", response={**RESPONSE, "status": "failed", "output": [], "error": error, "usage": None})
    reading = read([STREAM[0], {"type": "error", "error": error, "sequence_number": 2}, failed])
    assert reading.error == "You exceeded your current quota"
    assert reading.outputs == ()
    assert reading.finished


def test_error_keeps_what_was_said() -> None:
    reading = read([*STREAM[:5], {"type": "error", "code": "server_error", "message": "overloaded"}])
    assert reading.error == "overloaded"
    assert said(reading) == [TextPart("Hel")]
    assert reading.outputs[0].finish_reason is None  # nothing said how it ended


def test_incomplete() -> None:
    response = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    reading = read([*STREAM[:-1], event("incomplete", response=response)])
    assert reading.finished
    assert reading.outputs[0].finish_reason == "incomplete"


def test_queued() -> None:
    reading = whole({**RESPONSE, "status": "queued", "output": []})
    assert reading.outputs == (Output(0, (), "queued"),)


def test_fields_beside_the_response_are_kept() -> None:
    reading = read([*STREAM[:-1], event("completed", response=RESPONSE, copilot_usage={"total_nano_aiu": 1})])
    assert reading.response_json["copilot_usage"] == {"total_nano_aiu": 1}


def test_first_output() -> None:
    machine = Machine()
    carried = [machine.event("", data) for data in STREAM]
    assert carried.index(True) == 4


def test_unknown_events_are_noted_once() -> None:
    progress = [event("web_search_call.searching"), event("telepathy_call.sensing"), event("compaction.compacting")]
    assert read([event("dream.delta"), event("dream.delta"), *progress]).notes == (
        "unknown event: response.dream.delta",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = sorted({key for data in STREAM for key in data} | {"error", "summary_index"})


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(STREAM), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2)), max_size=8)
)
def test_any_json_in_any_event(stream: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    json.dumps(read([{**data, **odd} for data, odd in stream]).response_json)


@settings(max_examples=200)
@given(JSON | st.dictionaries(st.sampled_from([*RESPONSE, "content"]), JSON))
def test_any_json_as_body(body: Any) -> None:
    whole(body)
    read([body])
