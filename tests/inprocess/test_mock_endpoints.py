"""The endpoints as functions of a request's bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.inprocess.mock_endpoints import respond
from llmproxy.inprocess.mock_response import Request, Response
from llmproxy.inprocess.mock_settings import Options

OPTIONS = Options()
HI = [{"role": "user", "content": "Hi"}]


def ask(body: Any, path: str = "/v1/chat/completions", method: str = "POST", options: Options = OPTIONS) -> Response:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return respond(options, Request(method, path, [], encoded, 1, 1_700_000_000.5))


def error_of(response: Response) -> dict[str, Any]:
    error = json.loads(response.pieces[0])["error"]
    assert isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, None),
        (b"{", None, None),
        (b"\xff", None, None),
        (b"[1]", None, None),
        (b"[" * 100_000, None, None),
        ({}, "messages", "missing_required_parameter"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "king"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        ({"messages": HI, "model": 5}, "model", "invalid_type"),
        ({"messages": HI, "stream": "yes"}, "stream", "invalid_type"),
        ({"messages": HI, "n": 0}, "n", "invalid_value"),
        ({"messages": HI, "n": "2"}, "n", "invalid_type"),
        ({"messages": HI, "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": HI, "stop": [1]}, "stop[0]", "invalid_type"),
        ({"messages": HI, "tools": {}}, "tools", "invalid_type"),
        ({"messages": HI, "tools": [{"type": "function"}]}, "tools[0]", "invalid_value"),
        ({"messages": HI, "tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        ({"messages": HI, "tool_choice": "required"}, "tool_choice", None),
        ({"messages": HI, "response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        ({"messages": HI, "mock": 1}, "mock", "invalid_type"),
        ({"messages": HI, "mock": {"x": 1}}, "mock.x", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "/mock {x}"}]}, "messages", None),
    ],
)
def test_bad_requests(body: Any, param: str | None, code: str | None) -> None:
    response = ask(body)
    error = error_of(response)
    assert response.status == 400 and (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error" and (param is None or f"'{param}'" in error["message"])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": {}}, "prompt"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_bad_requests_elsewhere(path: str, body: Any, param: str) -> None:
    assert error_of(ask(body, path))["param"] == param


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/models", "/v1models", "/v1/v1/models", "/v1/chat", "/modelsx"])
def test_unknown_paths(path: str) -> None:
    response = ask(b"", path, "GET")
    assert response.status == 404 and error_of(response)["message"] == f"Invalid URL (GET {path})"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", b"POST"),
        ("HEAD", "/v1/embeddings", b"POST"),
        ("POST", "/v1/models", b"GET, HEAD"),
        ("DELETE", "/v1/models/mock", b"GET, HEAD"),
        ("POST", "/health", b"GET, HEAD"),
    ],
)
def test_wrong_methods(method: str, path: str, allowed: bytes) -> None:
    response = ask({}, path, method)
    assert response.status == 405 and (b"allow", allowed) in response.headers
    assert error_of(response)["code"] == "method_not_supported"


def test_the_object_key_for_key() -> None:
    """As OpenAI's API answered in 2025, but for the values."""
    completion = json.loads(ask({"model": "m", "messages": HI}).pieces[0])
    assert completion.pop("id").startswith("chatcmpl-")
    assert completion == {
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "You said: Hi", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 3,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/mock"),
    ],
)
def test_each_endpoint_can_be_told_to_fail(method: str, path: str) -> None:
    body = json.dumps({"messages": HI, "prompt": "a", "input": "a"}).encode()
    response = respond(OPTIONS, Request(method, path, [(b"x-mock-status", b"503")], body, 1, 0))
    assert response.status == 503
    assert error_of(response) == {
        "message": "The request asked for this error.",
        "type": "server_error",
        "param": None,
        "code": None,
    }


def test_the_usage_of_a_streamed_completion() -> None:
    response = ask({"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}}, "/v1/completions")
    *events, last = [json.loads(piece.removeprefix(b"data: ")) for piece in response.pieces[:-1]]
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 4
    assert all(event["usage"] is None and event["object"] == "text_completion" for event in events)


def test_delays_of_a_model_and_of_a_request() -> None:
    options = Options.model_validate({"first_delay": 1, "chunk_delay": 0.5, "models": [{"name": "fast", "speed": 2}]})
    response = ask({"messages": HI}, options=options)
    assert (response.first_delay, response.chunk_delay) == (0.5, 0.25)
    response = ask({"messages": HI, "mock": {"first_delay": 3, "chunk_delay": 0}}, options=options)
    assert (response.first_delay, response.chunk_delay) == (3, 0)


def test_what_a_cut_leaves() -> None:
    whole = ask({"messages": HI, "stream": True})
    for count in range(len(whole.pieces)):
        cut = ask({"messages": HI, "stream": True, "mock": {"cut_after": count}})
        assert cut.cut and len(cut.pieces) == count
    assert not ask({"messages": HI, "stream": True, "mock": {"cut_after": len(whole.pieces)}}).cut


def test_tokens_as_prompts_and_inputs() -> None:
    completion = json.loads(ask({"prompt": [[1, 2], [3]]}, "/v1/completions").pieces[0])
    assert [choice["text"] for choice in completion["choices"]] == ["You said: 1 2", "You said: 3"]
    assert len(json.loads(ask({"input": [1, 2]}, "/v1/embeddings").pieces[0])["data"]) == 1


KEYS = """model messages stream n stop max_tokens tools tool_choice response_format mock prompt input role content type
text function name parameters json_schema schema answer chunks status error tool_calls usage arguments""".split()
OTHER_APIS = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["user", "function", "Hi", "\ud800", "tool_result", "text", "tool", "json_schema"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON),
    st.booleans(),
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", *OTHER_APIS]),
)
def test_nothing_breaks_it(body: dict[str, Any], has_messages: bool, path: str) -> None:
    whole = {"messages": HI, "prompt": "a", "input": "a", "max_tokens": 9}
    response = ask(body | (whole if has_messages else {}), path)
    assert 200 <= response.status <= 599 and response.pieces


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from(OTHER_APIS))
def test_nothing_in_a_message_breaks_the_other_apis(inside: dict[str, Any], path: str) -> None:
    kinds = ("message", "function_call_output", "tool_result", "tool_use", "image")
    items = [{"role": "user", "content": "Hi"}, *({"type": kind, **inside} for kind in kinds)]
    said = [{"role": "user", "content": [{"type": kind, **inside} for kind in kinds]}]
    response = ask({"input": items, "messages": said, "max_tokens": 9, "tools": [{"type": "custom", **inside}]}, path)
    assert response.status in (200, 400) and response.pieces


@pytest.mark.parametrize("path", ["/v1/chat/completions", *OTHER_APIS])
@pytest.mark.parametrize("depth", range(100, 1000, 50))
@pytest.mark.parametrize("key", ["usage", "arguments", "schema", "content"])
def test_no_depth_breaks_it(depth: int, key: str, path: str) -> None:
    deep = '{"properties": {"a": ' * depth + "1" + "}}" * depth
    script = f'"mock": {{"usage": {deep}}}'
    if key == "arguments":
        script = f'"mock": {{"tool_calls": [{{"name": "a", "arguments": {deep}}}]}}'
    if key == "schema":
        script = f'"response_format": {{"type": "json_schema", "json_schema": {{"schema": {deep}}}}}'
    if key == "content":
        script = f'"mock": {deep}'
    said = '[{"role": "user", "content": "Hi"}]'
    response = ask(f'{{"messages": {said}, "input": {said}, "max_tokens": 9, {script}}}'.encode(), path)
    assert response.status in (200, 400)
