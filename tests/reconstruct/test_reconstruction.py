import gzip
import json
from typing import Any

import pytest
from llm import Tool
from llm.parts import Message, TextPart, ToolCallPart

from llmproxy.reconstruct import Api, NotReconstructed, Output, Reconstruction, Turn, Usage, api_of

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SSE = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
STREAM = (
    b'data: {"id": "1", "choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
    b'data: {"choices": [{"delta": {"content": "hey"}}]}\n\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
    b"data: [DONE]\n\n"
)
WHOLE = json.dumps({"choices": [{"message": {"content": "hey"}, "finish_reason": "stop"}]}).encode()
HEY = (Output(0, (Message("assistant", [TextPart("hey")]),), "stop"),)


def begin(request: Any = REQUEST, api: Api = "chat.completions", **rest: Any) -> Reconstruction:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return Reconstruction(api, request_headers=rest.pop("request_headers", []), request_body=body, **rest)


def respond(
    body: bytes, headers: list[tuple[bytes, bytes]] = SSE, *, status: int = 200, complete: bool = True, **rest: Any
) -> Turn:
    reconstruction = begin(**rest)
    reconstruction.response(status, headers)
    reconstruction.feed(body, 7)
    return reconstruction.finish(complete=complete)


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("POST", "/v1/chat/completions", "chat.completions"),
        ("post", "/v1/chat/completions/?a=/embeddings", "chat.completions"),
        ("POST", "/openai/deployments/x/chat/completions?api-version=1", "chat.completions"),
        ("POST", "/v1/completions", "completions"),
        ("POST", "/v1/responses", "responses"),
        ("POST", "/anthropic/v1/messages", "messages"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("GET", "/v1/chat/completions", None),
        ("POST", "/v1/responses/resp_1", None),
        ("POST", "/v1/responses/resp_1/cancel", None),
        ("POST", "/v1/messages/count_tokens", None),
        ("POST", "/v1/messages/batches", None),
        ("POST", "/v1/threads/t/messages", None),
        ("POST", "/v1/models", None),
        ("POST", "/v1/mycompletions", None),
        ("POST", "", None),
    ],
)
def test_api_of(method: str, path: str, api: Api | None) -> None:
    assert api_of(method, path) == api


def test_a_stream() -> None:
    reconstruction = begin()
    reconstruction.response(200, SSE)
    for at, piece in enumerate(STREAM.splitlines(keepends=True)):
        reconstruction.feed(piece, at)
    turn = reconstruction.finish(complete=True)
    assert turn.input == (Message("user", [TextPart("hi")]),)
    assert turn.outputs == HEY
    assert turn.usage == Usage(1, 2)
    assert (turn.stream, turn.finished, turn.error, turn.notes) == (True, True, None, ())
    assert turn.first_token_us == 3  # the blank line that completes the second event


@pytest.mark.parametrize("chunks", [0, 1, 3000])
def test_pieces_that_are_fed_at_once_read_as_one_by_one(chunks: int) -> None:
    lines = [
        b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n',
        *(b'data: {"choices": [{"delta": {"content": "%d "}}]}\n\n' % at for at in range(chunks)),
        *STREAM.splitlines(keepends=True)[2:],
    ]
    pieces = list(enumerate(line[at:][:20] for line in lines for at in range(0, len(line), 20)))
    singly, at_once = begin(), begin()
    for reconstruction in (singly, at_once):
        reconstruction.response(200, SSE)
    for at, piece in pieces:
        singly.feed(piece, at)
    at_once.feed_all(iter(pieces))
    turn = at_once.finish(complete=True)
    assert turn == singly.finish(complete=True)
    assert turn.outputs[0].messages[0].parts == [TextPart("".join(f"{at} " for at in range(chunks)) + "hey")]


def test_pieces_are_fed_at_once_when_the_response_has_begun() -> None:
    with pytest.raises(RuntimeError, match="not begun"):
        begin().feed_all([(1, b"x")])


def test_a_whole_body() -> None:
    turn = respond(WHOLE, JSON)
    assert turn.outputs == HEY
    assert (turn.stream, turn.finished, turn.first_token_us) == (False, True, None)


@pytest.mark.parametrize("headers", [SSE, JSON, []])
def test_the_bytes_tell_what_it_is(headers: list[tuple[bytes, bytes]]) -> None:
    for stream in (STREAM, b"\xef\xbb\xbf" + STREAM, b"\n\n" + STREAM, b": hi\n\n" + STREAM, b"event:x\n" + STREAM):
        turn = respond(stream, headers)
        assert (turn.stream, turn.outputs) == (True, HEY)
    for whole in (WHOLE, b"\xef\xbb\xbf" + WHOLE, b" \r\n " + WHOLE):
        turn = respond(whole, headers)
        assert (turn.stream, turn.outputs) == (False, HEY)


def test_without_a_response_there_is_the_input() -> None:
    turn = begin().finish(complete=False)
    assert turn.input == (Message("user", [TextPart("hi")]),)
    assert (turn.outputs, turn.finished, turn.response_json, turn.error) == ((), False, None, None)


def test_compressed_both_ways() -> None:
    coding = (b"Content-Encoding", b"gzip")
    turn = respond(
        gzip.compress(STREAM),
        [*SSE, coding],
        request=gzip.compress(json.dumps(REQUEST).encode()),
        request_headers=[coding],
    )
    assert (turn.model, turn.outputs) == ("m", HEY)


@pytest.mark.parametrize(
    ("request_body", "reason"),
    [
        (b"", "request body is not JSON"),
        (b"\xff", "request body is not UTF-8"),
        (b"[]", "request body is not an object"),
        (b"[" * 10_000, "request body is nested too deeply"),
    ],
)
def test_requests_that_are_none(request_body: bytes, reason: str) -> None:
    with pytest.raises(NotReconstructed) as caught:
        begin(request_body)
    assert caught.value.reason == reason


def test_a_cut_request() -> None:
    with pytest.raises(NotReconstructed, match="request body was cut"):
        begin(request_truncated=True)


def test_a_request_whose_coding_breaks_off() -> None:
    packed = gzip.compress(json.dumps(REQUEST).encode() * 100)
    with pytest.raises(NotReconstructed, match="request body"):
        begin(packed[:60] + b"\0" * 60, request_headers=[(b"content-encoding", b"gzip")])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "response body is not JSON"),
        (b"<html>", "response body is not JSON"),
        (b"[]", "response body is not an object"),
        (b"7", "response body is not an object"),
        (b'{"a":' * 10_000, "response body is nested too deeply"),
    ],
)
def test_responses_that_are_none(body: bytes, reason: str) -> None:
    with pytest.raises(NotReconstructed) as caught:
        respond(body, JSON)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "body", [b"", b"<html>x</html>", b"upstream connect error", b": ping\n\n", b"data: [DONE]\n\n"]
)
@pytest.mark.parametrize("api", ["chat.completions", "completions", "responses", "messages"])
def test_a_stream_that_says_nothing(api: Api, body: bytes) -> None:
    with pytest.raises(NotReconstructed, match="response has no answer"):
        respond(body, SSE, api=api)
    assert respond(body, SSE, api=api, complete=False).outputs == ()
    assert respond(body, SSE, api="embeddings").outputs == ()


@pytest.mark.parametrize(
    ("api", "body", "detail"),
    [
        ("chat.completions", b"{}", "response has no choices"),
        ("chat.completions", b'{"choices": []}', ""),
        ("responses", b"{}", ""),
        ("messages", b"{}", ""),
        ("messages", b'event: \xed\xa0\xbd\ndata: {"x": 1}\n\n', "unknown event: \ufffd\ufffd\ufffd"),
    ],
)
def test_a_body_that_says_nothing(api: Api, body: bytes, detail: str) -> None:
    with pytest.raises(NotReconstructed) as caught:
        respond(body, JSON, api=api)
    assert (caught.value.reason, caught.value.detail) == ("response has no answer", detail)


@pytest.mark.parametrize("api", ["chat.completions", "completions", "responses", "messages", "embeddings"])
@pytest.mark.parametrize(
    "error", [{"detail": "nope"}, {"message": "nope"}, {"object": "error", "message": "nope"}, {"error": "nope"}]
)
def test_an_error_with_a_status_of_success(api: Api, error: dict[str, str]) -> None:
    turn = respond(json.dumps(error).encode(), JSON, api=api)
    assert (turn.outputs, turn.error) == ((), "nope")
    if api != "embeddings":
        turn = respond(b"data: " + json.dumps(error).encode() + b"\n\n", SSE, api=api)
        assert (turn.outputs, turn.error) == ((), "nope")


@pytest.mark.parametrize(
    ("api", "answer"),
    [
        ("chat.completions", {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}),
        ("responses", {"id": "r", "status": "completed", "output": []}),
        ("messages", {"id": "m", "content": [], "stop_reason": "end_turn"}),
    ],
)
def test_an_empty_answer_is_an_answer(api: Api, answer: Any) -> None:
    turn = respond(json.dumps(answer).encode(), JSON, api=api)
    assert [output.messages for output in turn.outputs] == [()]


def test_a_body_that_was_cut_leaves_the_input() -> None:
    turn = respond(WHOLE[:-5], JSON, complete=False)
    assert (len(turn.input), turn.outputs, turn.finished, turn.notes) == (1, (), False, ("response body was cut",))


def test_a_stream_that_was_cut() -> None:
    cut = STREAM[: STREAM.index(b"hey") + 2]
    assert respond(cut, complete=False).notes == ()
    assert respond(cut, complete=True).notes == ("event data is not JSON",)
    turn = respond(STREAM[: STREAM.index(b"data: [DONE]")], complete=False)
    assert (turn.outputs, turn.finished) == (HEY, False)
    assert respond(STREAM, complete=False).finished  # the client left when it had all


def test_a_stream_whose_coding_breaks_off() -> None:
    packed = gzip.compress(STREAM)
    turn = respond(packed[:-8] + b"01234567", [*SSE, (b"content-encoding", b"gzip")])
    assert (turn.outputs, turn.notes) == (HEY, ("response body stops being gzip",))


def test_events_that_end_by_one_newline() -> None:
    turn = respond(STREAM.replace(b"\n\n", b"\n"))
    assert (turn.outputs, turn.finished) == (HEY, True)


@pytest.mark.parametrize(
    ("tail", "error"),
    [
        (b'data: {"error": {"message": "m"}}\n\n', "m"),
        (b"event: error\ndata: out of memory\n\n", "out of memory"),
        (b'error: {"detail": "m", "error": {"message": "m"}}\n\n', "m"),
        (b'{"error": {"message": "m"}}\n', "m"),
    ],
)
def test_errors_at_the_end_of_a_stream(tail: bytes, error: str) -> None:
    turn = respond(STREAM[: STREAM.index(b'data: {"choices": [{"delta": {}')] + tail)
    assert (turn.error, turn.finished) == (error, False)
    assert turn.outputs[0].messages == HEY[0].messages


def test_an_error_status() -> None:
    turn = respond(b'{"error": {"message": "m", "code": 7}}', SSE, status=429)
    assert (turn.error, turn.outputs, turn.stream, turn.finished) == ("m", (), False, True)
    assert turn.response_json == {"error": {"message": "m", "code": 7}}
    packed = gzip.compress(b"<html>")
    turn = respond(packed, [(b"content-encoding", b"gzip")], status=502, complete=False)
    assert (turn.error, turn.response_json, turn.finished) == ("<html>", None, False)


def test_an_error_status_whose_coding_breaks_off() -> None:
    packed = gzip.compress(b"<html>")
    turn = respond(packed[:-8] + b"01234567", [(b"content-encoding", b"gzip")], status=502)
    assert (turn.error, turn.notes) == ("<html>", ("response body stops being gzip",))


def test_surrogates_are_joined_or_replaced_everywhere() -> None:
    halves = [json.dumps({"choices": [{"delta": {"content": text}}]}) for text in ("\ud83d", "\ude00 \ud83d")]
    request = {"messages": [{"role": "user", "content": "\ud83d"}], "\ud83d": "\ud83d"}
    turn = respond("".join(f"data: {half}\n\n" for half in halves).encode(), request=request)
    assert turn.input == (Message("user", [TextPart("\ufffd")]),)
    assert turn.options == {"\ufffd": "\ufffd"}
    assert turn.outputs[0].messages == (Message("assistant", [TextPart("\U0001f600 \ufffd")]),)
    assert turn.response_json["choices"][0]["message"]["content"] == "\U0001f600 \ufffd"
    assert turn.notes == ("lone surrogate replaced",)


CUT = r'{"a": "cut \ud83d"}'  # escapes inside text inside JSON
KEPT = ToolCallPart("f", {"a": "cut \ufffd"}, "c")


@pytest.mark.parametrize(
    ("api", "request_body", "answer"),
    [
        (
            "chat.completions",
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": CUT}}]}
                ]
            },
            {"choices": [{"message": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": CUT}}]}}]},
        ),
        (
            "responses",
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": CUT}]},
            {"output": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": CUT}]},
        ),
        (
            "messages",
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": CUT}]}
                ]
            },
            {"content": [{"type": "tool_use", "id": "c", "name": "f", "input": CUT}]},
        ),
    ],
)
def test_surrogates_inside_arguments(api: Api, request_body: Any, answer: Any) -> None:
    turn = respond(json.dumps(answer).encode(), JSON, api=api, request={"model": "m", **request_body})
    assert turn.input == (Message("assistant", [KEPT]),)
    assert turn.outputs[0].messages == turn.input
    assert turn.notes == ("lone surrogate replaced",)


def test_surrogates_inside_a_session() -> None:
    request = {**REQUEST, "metadata": {"user_id": r'{"session_id": "s\ud83d"}'}}
    assert begin(request).finish(complete=False).session == "s\ufffd"


def test_notes_are_storable() -> None:
    turn = respond(b'event: \xed\xa0\xbd\ndata: {"x": 1}\n\n', complete=False)
    assert "\n".join(turn.notes).encode()


def test_session_and_pointers() -> None:
    request = {"model": "m", "input": "hi", "previous_response_id": "r", "conversation": {"id": "c"}}
    turn = begin(request, "responses", request_headers=[(b"session_id", b"s")]).finish(complete=False)
    assert (turn.session, turn.previous_response_id, turn.conversation) == ("s", "r", "c")


def test_credentials_of_tools_are_not_kept() -> None:
    tool = {"type": "mcp", "server_label": "l", "server_url": "u", "authorization": "secret"}
    turn = begin({"model": "m", "input": "hi", "tools": [tool]}, "responses").finish(complete=False)
    assert turn.tools == (Tool("mcp", None, {**tool, "authorization": "REDACTED"}),)


def test_the_order_of_calls() -> None:
    reconstruction = begin()
    with pytest.raises(RuntimeError):
        reconstruction.feed(b"", 0)
    reconstruction.response(200, SSE)
    with pytest.raises(RuntimeError):
        reconstruction.response(200, SSE)
