"""The replay upstream behind a real proxy, over what a real proxy captured."""

import asyncio
import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.config import Config
from llmproxy.ingest import Ingester
from llmproxy.inprocess.replay import create_app
from llmproxy.inprocess.replay_reply import reply
from llmproxy.store.replay_answer import CapturedAnswer
from tests.proxy import DEADLINE, InThread, proxy_in_thread
from tests.raw_upstream import Connection, RawRequest, RawUpstream, raw_upstream

MOCK = {"mock": {"app": "llmproxy.inprocess.mock:create_app", "options": {"chunk_delay": 0}}}
CHAT = "/v1/chat/completions"


def ingest(config: Config) -> None:
    ingester = Ingester(config.capture)
    try:
        assert asyncio.run(ingester.drain(patience=DEADLINE))
    finally:
        ingester.close()


@contextmanager
def captured(tmp_path: Path, upstreams: dict[str, Any] = MOCK, raw: str = "failed") -> Iterator[httpx2.Client]:
    """A proxy that captures; what passed is in the database when the block ends."""
    with proxy_in_thread(tmp_path, upstreams=upstreams, capture={"raw": raw}) as proxy:
        with httpx2.Client(base_url=proxy.url, timeout=DEADLINE) as client:
            yield client
    ingest(proxy.config)


@contextmanager
def replayed(tmp_path: Path, **options: Any) -> Iterator[tuple[httpx2.Client, InThread]]:
    """A proxy in front of the replay upstream over that database."""
    options = {"database": str(tmp_path / "logs.db"), "speed": 0, **options}
    upstreams = {"replay": {"app": "llmproxy.inprocess.replay:create_app", "options": options}}
    with proxy_in_thread(tmp_path, upstreams=upstreams) as proxy:
        with httpx2.Client(base_url=proxy.url, timeout=DEADLINE) as client:
            yield client, proxy


def rows(tmp_path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(tmp_path / "logs.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "mock", "messages": [{"role": "user", "content": text}], **fields}


def error(response: httpx2.Response) -> tuple[int, str, str]:
    told = response.json()["error"]
    assert response.headers["x-llmproxy-error"] == told["code"]
    return response.status_code, told["code"], told["message"]


@pytest.mark.parametrize("body", [chat("a stream of words", stream=True), chat("whole")])
def test_kept_bytes_are_answered_to_the_byte(tmp_path: Path, body: dict[str, Any]) -> None:
    with captured(tmp_path, raw="all") as client:
        first = client.post(CHAT, json=body)
    with replayed(tmp_path) as (client, proxy):
        again = client.post(CHAT, json=body)
        pieces = [piece for _, piece in proxy.exchange().response_body]
    assert (again.status_code, again.content) == (first.status_code, first.content)
    ((id, lengths),) = rows(tmp_path, "select id, response_pieces from llmproxy_exchanges")
    assert [len(piece) for piece in pieces] == [length for _, length in json.loads(lengths)]
    ours = {"x-llmproxy-replay": id}
    assert dict(again.headers) == dict(first.headers) | ours


def test_without_bytes_the_object_is_made_into_what_is_wanted(tmp_path: Path) -> None:
    with captured(tmp_path) as client:
        streamed = client.post(CHAT, json=chat("streamed", stream=True)).text
        whole = client.post(CHAT, json=chat("whole")).json()
    with replayed(tmp_path) as (client, _):
        assert client.post(CHAT, json=chat("whole")).json() == whole
        again = client.post(CHAT, json=chat("streamed", stream=True))
        assert again.headers["content-type"].startswith("text/event-stream")
        assert text_of(again.text) == text_of(streamed)
        # Asked the other way round than it was captured.
        assert text_of(client.post(CHAT, json=chat("whole", stream=True)).text) == "You said: whole"
        turned = client.post(CHAT, json=chat("streamed")).json()
        assert turned["choices"][0]["message"]["content"] == text_of(streamed)
        assert turned["object"] == "chat.completion"


def text_of(stream: str) -> str:
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_what_is_replayed_passes_and_makes_no_second_turn(tmp_path: Path) -> None:
    with captured(tmp_path) as client:
        client.post(CHAT, json=chat("once"))
    with replayed(tmp_path) as (client, proxy):
        client.post(CHAT, json=chat("once"))
        client.post(CHAT, json=chat("never"))
    ingest(proxy.config)
    assert rows(tmp_path, "select count(*) from turns") == [(1,)]
    assert rows(tmp_path, "select upstream, status, reason, turn_id is null from llmproxy_exchanges order by id") == [
        ("mock", 200, None, 0),
        ("replay", 200, "replayed", 1),
        ("replay", 404, "replayed", 1),
    ]
    # Nor is an answer of the replay's own, such as the 404, taken for one that was captured.
    with replayed(tmp_path) as (client, _):
        assert error(client.post(CHAT, json=chat("never")))[0] == 404


def test_a_foreign_mark_costs_no_turn(tmp_path: Path) -> None:
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}'

    def answer(connection: Connection, request: RawRequest) -> None:
        head = b"HTTP/1.1 200 OK\r\nx-llmproxy-replay: 01k00000000000000000000000\r\n"
        connection.send(head + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    with raw_upstream(answer) as up:
        with captured(tmp_path, {"up": {"base_url": f"{up.url}/v1"}}) as client:
            client.post(CHAT, json=chat("hello"))
    assert rows(tmp_path, "select count(*) from turns") == [(1,)]


def test_an_unknown_request_is_told_with_the_nearest(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with captured(tmp_path) as client:
        client.post(CHAT, json=chat("What is the capital of France?", tools=tools))
        client.post(CHAT, json=chat("Something else altogether"))
    with replayed(tmp_path) as (client, _):
        status, code, message = error(client.post(CHAT, json=chat("What is the capital of Spain?")))
        assert (status, code) == (404, "replay_unknown_request")
        assert "-user: What is the capital of France?\n+user: What is the capital of Spain?" in message
        assert '-tool: ["f"' in message
        assert "captured, nor any other with" in error(client.post("/v1/responses", json={"input": "x"}))[2]


def test_the_normal_form_decides(tmp_path: Path) -> None:
    call: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1,"b":2}'}}
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    with captured(tmp_path) as client:
        client.post(CHAT, json={"model": "mock", "messages": history, "temperature": 0.5})
    call["id"], call["function"] = "call_other", {"name": "f", "arguments": '{"b": 2, "a": 1}'}
    history[2]["content"] = ""
    history[1]["content"] = [{"type": "text", "text": "go "}]
    history[3]["tool_call_id"] = "call_other"
    same = {"model": "mock", "messages": history, "temperature": 0.9}
    with replayed(tmp_path) as (client, _):
        assert client.post(CHAT, json=same).status_code == 200
        assert client.post(CHAT, json=same | {"model": "other"}).status_code == 404
        sterner = [{"role": "system", "content": "Be long."}, *history[1:]]
        assert "-system: Be brief." in error(client.post(CHAT, json=same | {"messages": sterner}))[2]
    with replayed(tmp_path, match=["temperature"]) as (client, _):
        assert "-temperature: 0.5\n+temperature: 0.9" in error(client.post(CHAT, json=same))[2]
        assert client.post(CHAT, json=same | {"temperature": 0.5, "top_p": 1}).status_code == 200
    with replayed(tmp_path, match=["*"]) as (client, _):
        assert client.post(CHAT, json=same | {"temperature": 0.5, "top_p": 1}).status_code == 404


def test_several_answers_are_given_in_turn(tmp_path: Path) -> None:
    with captured(tmp_path) as client:
        for answer in ("one", "two"):
            client.post(CHAT, json=chat("again"), headers={"x-mock-answer": answer})
        client.post(CHAT, json=chat("again"), headers={"x-mock-status": "500"})
    with replayed(tmp_path) as (client, _):
        said = [client.post(CHAT, json=chat("again")).json()["choices"][0]["message"]["content"] for _ in range(3)]
    assert said == ["one", "two", "one"]


def test_failures_are_replayed_where_nothing_better_is_known(tmp_path: Path) -> None:
    with captured(tmp_path) as client:
        client.post(CHAT, json=chat("limited"), headers={"x-mock-status": "429"})
        with pytest.raises(httpx2.TransportError):
            client.post(CHAT, json=chat("cut off here", stream=True), headers={"x-mock-cut-after": "3"})
    with replayed(tmp_path) as (client, _):
        assert client.post(CHAT, json=chat("limited")).status_code == 429
        with pytest.raises(httpx2.TransportError):
            client.post(CHAT, json=chat("cut off here", stream=True))


def test_what_was_not_kept_is_told_with_the_setting(tmp_path: Path) -> None:
    embedding = {"model": "mock", "input": "words"}
    with captured(tmp_path) as client:
        client.post("/v1/embeddings", json=embedding)
    with replayed(tmp_path) as (client, _):
        status, code, message = error(client.post("/v1/embeddings", json=embedding))
        assert (status, code) == (501, "replay_needs_raw") and "capture.raw: all" in message


def test_any_path_is_known_by_its_bytes(tmp_path: Path) -> None:
    with captured(tmp_path, {"other": {"base_url": "http://127.0.0.1:1"}, **MOCK}, raw="all") as client:
        models = client.get("/mock/v1/models").json()
        vectors = client.post("/mock/v1/embeddings", json={"model": "mock", "input": "words"}).json()
    with replayed(tmp_path) as (client, _):
        assert client.get("/v1/models").json() == models
        assert client.get("/v1/models?key=x").status_code == 404
        assert client.post("/v1/embeddings", json={"input": "words", "model": "mock"}).json() == vectors


def test_a_coding_that_the_client_does_not_take_is_undone(tmp_path: Path) -> None:
    plain = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}).encode()
    packed = gzip.compress(plain)

    def answer(connection: Connection, request: RawRequest) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
        connection.send(head + b"content-length: %d\r\n\r\n%b" % (len(packed), packed))

    with raw_upstream(answer) as up:
        with captured(tmp_path, {"up": {"base_url": f"{up.url}/v1"}}, raw="all") as client:
            client.post(CHAT, json=chat("hello"))
    with replayed(tmp_path) as (client, _):
        for accepts, expected in (("gzip, br", packed), ("identity", plain)):
            with client.stream("POST", CHAT, json=chat("hello"), headers={"accept-encoding": accepts}) as response:
                assert b"".join(response.iter_raw()) == expected


def test_recording_sends_on_what_is_not_known_and_captures_it(tmp_path: Path) -> None:
    with provider() as up:
        with replayed(tmp_path, mode="record", upstream={"base_url": f"{up.url}/v1"}) as (client, proxy):
            headers = {"authorization": "Bearer sk-own"}
            first = client.post(CHAT, json=chat("new"), headers=headers).json()
            assert client.get("/v1/files/abc?limit=2").status_code == 200
        ingest(proxy.config)
        sent = [request.request_line for request in up.requests]
        assert sent == [b"POST /v1/chat/completions HTTP/1.1", b"GET /v1/files/abc?limit=2 HTTP/1.1"]
        assert (b"authorization", b"Bearer sk-own") in up.requests[0].headers
        assert rows(tmp_path, "select count(*) from turns") == [(1,)]
        with replayed(tmp_path, mode="record", upstream={"base_url": f"{up.url}/v1"}) as (client, proxy):
            again = client.post(CHAT, json=chat("new"), headers=headers)
            assert again.json() == first and "x-llmproxy-replay" in again.headers
        assert len(up.requests) == 2
    with replayed(tmp_path, mode="record", upstream={"base_url": f"{up.url}/v1"}) as (client, _):
        # The provider is gone.
        assert error(client.post(CHAT, json=chat("newer")))[:2] == (502, "upstream_unreachable")
        assert client.post(CHAT, json=chat("new")).json() == first


def test_a_client_that_goes_closes_the_request_that_is_recorded(tmp_path: Path) -> None:
    closed: list[bool] = []

    def never(connection: Connection, request: RawRequest) -> bool:
        closed.append(connection.wait_closed())
        return False

    with raw_upstream(never) as up:
        with replayed(tmp_path, mode="record", upstream={"base_url": f"{up.url}/v1"}) as (client, _):
            with pytest.raises(httpx2.ReadTimeout):
                client.post(CHAT, json=chat("new"), timeout=httpx2.Timeout(DEADLINE, read=0.2))
    assert closed == [True]


@contextmanager
def provider() -> Iterator[RawUpstream]:
    body = b'{"model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}'

    def answer(connection: Connection, request: RawRequest) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    with raw_upstream(answer) as up:
        yield up


@pytest.mark.parametrize("is_old", [False, True])
def test_a_pointer_at_an_earlier_response_is_followed(tmp_path: Path, is_old: bool) -> None:
    numbers = iter(range(1, 9))

    def answer(connection: Connection, request: RawRequest) -> None:
        message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "said"}]}
        said = {"id": f"resp_{next(numbers)}", "object": "response", "status": "completed", "output": [message]}
        body = json.dumps(said).encode()
        connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    questions: list[dict[str, Any]] = [
        {"model": "m", "instructions": "i", "input": [{"role": "developer", "content": "d"}, {"content": "one"}]},
        {"model": "m", "input": "more", "previous_response_id": "resp_1"},
        {"model": "m", "input": "more"},
    ]
    with raw_upstream(answer) as up:
        with captured(tmp_path, {"up": {"base_url": f"{up.url}/v1"}}) as client:
            for question in questions:
                client.post("/v1/responses", json=question)
    if is_old:
        # A version that did not tell instructions from what the provider keeps recorded it.
        rows(tmp_path, "alter table llmproxy_turns drop column instructions")
    with replayed(tmp_path) as (client, _):
        ids = [client.post("/v1/responses", json=question).json()["id"] for question in reversed(questions)]
        assert ids == ["resp_3", "resp_2", "resp_1"]
        assert client.post("/v1/responses", json=questions[1] | {"previous_response_id": "x"}).json()["id"] == "resp_3"


def test_a_message_thread_is_followed(tmp_path: Path) -> None:
    first: dict[str, Any] = {
        "model": "m",
        "max_tokens": 9,
        "system": "be kind",
        "messages": [{"role": "user", "content": "one"}],
    }
    first |= {"tools": [{"name": "f", "input_schema": {"type": "object"}}], "thread": {"type": "create"}}
    with captured(tmp_path, {"up": {"app": "llmproxy.inprocess.mock:create_app"}}) as client:
        said = client.post("/v1/messages", json=first).json()
        more: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "more"}]}
        more |= {"thread": {"type": "continue", "previous_message_id": said["id"]}}
        answer = client.post("/v1/messages", json=more).json()
    with replayed(tmp_path) as (client, _):
        assert client.post("/v1/messages", json=more).json()["id"] == answer["id"]
        # The same question, asked with the whole history.
        whole = first | {"messages": [*first["messages"], {"role": "assistant", "content": said["content"]}]}
        whole["messages"] += more["messages"]
        assert client.post("/v1/messages", json=whole).json()["id"] == answer["id"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"database": "/nowhere/logs.db"}, "there is no database yet"),
        ({"sped": 1}, "sped Extra inputs are not permitted"),
        ({"mode": "record"}, "mode: record needs upstream"),
        ({"upstream": {"base_url": "http://127.0.0.1:1/v1"}}, "upstream is for mode: record"),
        ({"speed": -1}, "speed Input should be greater"),
    ],
)
def test_options_that_cannot_be_are_told_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        create_app(options)
    assert "\n" not in str(raised.value)


def test_the_pauses_are_those_that_were_captured() -> None:
    def answer(pieces: tuple[tuple[int, bytes], ...] | None) -> CapturedAnswer:
        message = {"role": "assistant", "content": "one two"}
        said = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return CapturedAnswer("id", "chat.completions", 200, (), True, pieces, said, False, 100.0, 500.0)

    raw = reply(answer(((100_000, b"data: 1\n\n"), (500_000, b"data: 2\n\n"))), stream=True, usage=False, accepts=b"")
    assert [at for at, _ in raw.pieces] == [0.1, 0.5]
    made = reply(answer(None), stream=True, usage=False, accepts=b"")
    assert [round(at, 3) for at, _ in made.pieces] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [at for at, _ in reply(answer(None), stream=False, usage=False, accepts=b"").pieces] == [0.5]
