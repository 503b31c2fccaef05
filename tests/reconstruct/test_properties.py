"""What holds for any bytes: how they are split says nothing, a cut one gives a beginning, and odd JSON is survived."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from llm.parts import ReasoningPart, TextPart, ToolCallPart

from llmproxy.reconstruct import Api, NotReconstructed, Reconstruction, Turn
from tests.reconstruct.records import body_of, fixtures, turn_of

APIS: tuple[Api, ...] = ("chat.completions", "completions", "responses", "messages", "embeddings")
IDS = sorted(fixtures())
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

# Field names and kinds that the readers know, so that odd values get past the first look.
NAMES = (
    *("messages", "role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "id", "index"),
    *("choices", "delta", "message", "finish_reason", "usage", "prompt_tokens", "output_tokens", "logprobs", "model"),
    *("tools", "functions", "parameters", "input_schema", "response_format", "json_schema", "schema", "error", "value"),
    *("reasoning", "reasoning_content", "reasoning_details", "summary", "signature", "thinking", "refusal", "audio"),
    *("image_url", "input_audio", "file", "url", "data", "format", "tool_call_id", "function_call", "prompt", "custom"),
    *(
        "input",
        "output",
        "instructions",
        "system",
        "source",
        "media_type",
        "item",
        "item_id",
        "output_index",
        "call_id",
    ),
    *("content_block", "content_index", "response", "status", "detail", "metadata", "user_id", "images", "x_groq"),
    *("transcript", "timings", "embedding", "part", "tool_use_id", "partial_json", "citation", "conversation"),
)
KINDS = (
    *("text", "image_url", "input_audio", "file", "thinking", "refusal", "function", "custom", "tool", "user"),
    *("assistant", "function_call", "custom_tool_call", "function_call_output", "reasoning", "message", "mcp_call"),
    *("tool_use", "tool_result", "image", "document", "server_tool_use", "web_search_tool_result", "base64", "url"),
    *("message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "text_delta"),
    *("input_json_delta", "thinking_delta", "citations_delta", "response.created", "response.completed", "error"),
    *("response.output_item.added", "response.output_item.done", "response.output_text.delta", "web_search_call"),
    *("response.function_call_arguments.delta", "response.reasoning_summary_text.delta", "image_generation_call"),
    *("reasoning.text", "reasoning.encrypted", "json_schema", "data:image/png;base64,AA==", "{", '{"a": 1}'),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(2**70),
    st.floats(),
    st.sampled_from(KINDS),
    st.text(st.characters(), max_size=8),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=3)), inner, max_size=5),
    ),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)


@given(data=st.data())
@settings(max_examples=100)
@pytest.mark.parametrize("identifier", IDS)
def test_any_split_gives_the_same_turn(identifier: str, data: st.DataObject) -> None:
    record = fixtures()[identifier]
    size = len(body_of(record))
    ends = data.draw(st.lists(st.integers(0, size), max_size=20))
    assert turn_of(record, ends=ends) == turn_of(record)


@pytest.mark.parametrize("identifier", IDS)
def test_byte_by_byte_gives_the_same_turn(identifier: str) -> None:
    record = fixtures()[identifier]
    assert turn_of(record, ends=list(range(len(body_of(record))))) == turn_of(record)


def said(turn: Turn, kind: type[TextPart] | type[ReasoningPart]) -> list[str]:
    return [
        "".join(part.text for message in output.messages for part in message.parts if isinstance(part, kind))
        for output in turn.outputs
    ]


def calls(turn: Turn) -> list[ToolCallPart]:
    parts = [part for output in turn.outputs for message in output.messages for part in message.parts]
    return [part for part in parts if isinstance(part, ToolCallPart)]


def assert_beginning(cut: Turn, whole: Turn) -> None:
    for kind in (TextPart, ReasoningPart):
        for begun, ended in zip(said(cut, kind), said(whole, kind), strict=False):
            assert ended.startswith(begun)
    assert len(cut.outputs) <= len(whole.outputs)
    if len(whole.outputs) == 1:
        assert [call.name for call in calls(whole)][: len(calls(cut))] == [call.name for call in calls(cut)]


@given(data=st.data())
@settings(max_examples=100)
@pytest.mark.parametrize("identifier", IDS)
def test_any_cut_gives_a_beginning(identifier: str, data: st.DataObject) -> None:
    record = fixtures()[identifier]
    whole = turn_of(record)
    length = data.draw(st.integers(0, len(body_of(record)) - 1))
    cut = turn_of(record, length=length)
    assert_beginning(cut, whole)
    assert cut.input == whole.input
    if cut.finished:  # all that is missing is what follows the last event
        assert said(cut, TextPart) == said(whole, TextPart)
        assert cut.usage == whole.usage


def survive(api: Api, request: Any, bodies: list[tuple[bytes, bytes]]) -> None:
    for content_type, body in bodies:
        try:
            reconstruction = Reconstruction(api, request_headers=[], request_body=json.dumps(request).encode())
            reconstruction.response(200, [(b"content-type", content_type)])
            reconstruction.feed(body, 1)
            turn = reconstruction.finish(complete=True)
        except NotReconstructed:
            continue
        assert_storable(turn)


def assert_storable(turn: Turn) -> None:
    for message in (*turn.input, *(message for output in turn.outputs for message in output.messages)):
        json.dumps(message.to_dict(), allow_nan=False, ensure_ascii=False).encode()
    for tool in turn.tools:
        tool.hash()
    rest = (turn.response_json, dict(turn.options), dict(turn.usage.details), turn.notes, turn.error, turn.model)
    json.dumps(rest, allow_nan=False, ensure_ascii=False).encode()
    for tokens in (turn.usage.input_tokens, turn.usage.output_tokens):
        assert tokens is None or abs(tokens) < 2**63


@given(request=OBJECTS)
@settings(max_examples=300, suppress_health_check=SLOW)
@pytest.mark.parametrize("api", APIS)
def test_any_json_as_a_request(api: Api, request: dict[str, Any]) -> None:
    survive(api, request, [(b"application/json", b"{}")])


@given(body=st.one_of(OBJECTS, JSON))
@settings(max_examples=300, suppress_health_check=SLOW)
@pytest.mark.parametrize("api", APIS)
def test_any_json_as_a_response(api: Api, body: Any) -> None:
    survive(api, {}, [(b"application/json", json.dumps(body).encode())])


@given(events=st.lists(st.tuples(st.sampled_from(("", *KINDS)), st.one_of(OBJECTS, JSON)), max_size=8))
@example(
    events=[
        ("", {"choices": [{"delta": {"content": "\ud83d"}}]}),
        ("", {"choices": [{"delta": {"content": "\ude00"}}]}),
    ]
)
@settings(max_examples=300, suppress_health_check=SLOW)
@pytest.mark.parametrize("api", APIS)
def test_any_json_as_events(api: Api, events: list[tuple[str, Any]]) -> None:
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    survive(api, {}, [(b"text/event-stream", body.encode())])


@given(values=st.lists(JSON, min_size=1, max_size=6))
@settings(max_examples=300, suppress_health_check=SLOW)
@pytest.mark.parametrize(
    ("api", "field"),
    [("chat.completions", "delta"), ("chat.completions", "message"), ("completions", "text")],
)
def test_any_json_as_what_a_choice_says(api: Api, field: str, values: list[Any]) -> None:
    chunks = [{"choices": [{field: value}]} for value in values]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()
    survive(api, {}, [(b"text/event-stream", stream), (b"application/json", json.dumps(chunks[0]).encode())])


@given(body=st.binary(max_size=200))
@settings(max_examples=300)
@pytest.mark.parametrize("content_type", [b"text/event-stream", b"application/json", b""])
@pytest.mark.parametrize("coding", ["", "gzip", "deflate", "br", "zstd", "gzip, br"])
def test_any_bytes_as_a_response(content_type: bytes, coding: str, body: bytes) -> None:
    reconstruction = Reconstruction("chat.completions", request_headers=[], request_body=b"{}")
    try:
        reconstruction.response(200, [(b"content-type", content_type), (b"content-encoding", coding.encode())])
        reconstruction.feed(body, 1)
        assert_storable(reconstruction.finish(complete=True))
    except NotReconstructed:
        pass
