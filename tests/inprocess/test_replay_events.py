"""A response object made into a stream again says the same."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmproxy.inprocess.replay_events import events_of
from llmproxy.reconstruct import Reconstruction
from llmproxy.reconstruct.turn import Api, Turn
from tests.reconstruct.records import Record, corpus, fixtures, turn_of


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        # A stream cannot leave out the message of a choice that says nothing.
        nothing: tuple[Any, ...] = (None, "", [], {"role": "assistant"})
        # DeepSeek numbers the tool calls of an unstreamed answer too.
        given = {key: item for key, item in value.items() if not (key == "index" and "function" in value)}
        kept = {key: without_nulls(item) for key, item in given.items()}
        return {key: item for key, item in kept.items() if item not in nothing}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def streamed(record: Record, events: list[bytes]) -> Turn:
    response = {"status": 200, "headers": {"content-type": "text/event-stream"}, "body": b"".join(events).decode()}
    return turn_of({**record, "response": response})


def said(turn: Turn) -> list[Any]:
    """What each choice said, in any order: the same object may have come in more than one."""
    parts = [part.to_dict() for output in turn.outputs for message in output.messages for part in message.parts]
    plain: list[Any] = [[part.get(name) for name in ("type", "text", "name", "arguments", "output")] for part in parts]
    return sorted(plain, key=str) + [output.finish_reason for output in turn.outputs]


@pytest.mark.parametrize("records", [fixtures, corpus], ids=["fixtures", "corpus"])
def test_every_recorded_answer_survives_the_way_through_a_stream(records: Callable[[], dict[str, Record]]) -> None:
    for record in records().values():
        turn = turn_of(record)
        events = events_of(turn.api, turn.response_json, usage=True) if turn.outputs and not turn.error else None
        if events is None:
            continue
        again = streamed(record, events)
        assert (again.finished, again.error, again.notes) == (True, None, ()), record["id"]
        assert (again.usage, said(again)) == (turn.usage, said(turn)), record["id"]
        if records is fixtures:
            assert without_nulls(again.response_json) == without_nulls(turn.response_json), record["id"]


@pytest.mark.parametrize(
    ("api", "response"),
    [
        ("completions", {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "a b", "x": 1}]}),
        (
            "messages",
            {
                "id": "m",
                "type": "message",
                "content": [
                    {"type": "thinking", "thinking": "let me see", "signature": "sig"},
                    {"type": "text", "text": "it is so", "citations": [{"type": "char_location", "cited_text": "so"}]},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"city": "Ülm", "deep": [1, {"a": None}]}},
                    {"type": "tool_use", "id": "u", "name": "g", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "x"}]},
                ],
                "stop_reason": "tool_use",
                "usage": {"input_tokens": 3, "output_tokens": 9},
            },
        ),
        (
            "responses",
            {
                "id": "r",
                "object": "response",
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "output": [
                    {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "thought about"}]},
                    {"type": "message", "id": "m", "content": [{"type": "refusal", "refusal": "I will not"}]},
                    {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
                ],
                "usage": {"input_tokens": 3, "output_tokens": 9},
            },
        ),
    ],
)
def test_each_kind_of_content(api: Api, response: dict[str, Any]) -> None:
    def read(content_type: bytes, body: bytes) -> Turn:
        reading = Reconstruction(api, request_headers=[], request_body=b"{}")
        reading.response(200, [(b"content-type", content_type)])
        reading.feed(body, 1)
        return reading.finish(complete=True)

    whole = read(b"application/json", json.dumps(response).encode())
    again = read(b"text/event-stream", b"".join(events_of(api, response, usage=True) or ()))
    assert without_nulls(again.response_json) == without_nulls(response)
    assert again.outputs == whole.outputs


def test_the_usage_comes_where_it_was_asked_for() -> None:
    response = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}], "usage": {"x": 1}}
    assert b"usage" in b"".join(events_of("chat.completions", response, usage=True) or ())
    assert b"usage" not in b"".join(events_of("chat.completions", response, usage=False) or ())


def test_what_does_not_stream_has_no_events() -> None:
    assert events_of("embeddings", {"data": []}, usage=False) is None
    assert events_of(None, {}, usage=False) is None
