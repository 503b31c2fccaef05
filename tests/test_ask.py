"""`POST /v1/ask`, over real sockets: what goes upstream, what comes back, what is recorded, and what is refused."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.ask import MAX_BODY_BYTES
from llmproxy.config import ConfigError, load
from tests.proxy import InThread, eventually, proxy_in_thread, serving
from tests.raw_upstream import Connection, RawRequest, RawUpstream, answer, raw_upstream

COMPLETION = b'{ "id":"c-1", "choices":[{"index":0,"message":{"role":"assistant","content":"42"}}] }\n'
Q: dict[str, Any] = {"question": "q"}


@contextmanager
def asking(
    tmp_path: Path,
    handler: Callable[[Connection, RawRequest], bool | None] = lambda c, r: c.send(answer(COMPLETION)),
    ask: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[tuple[InThread, RawUpstream]]:
    settings["ask"] = {"model": "m-1", "system": "Be brief."} if ask is None else ask
    with raw_upstream(handler) as up:
        with proxy_in_thread(tmp_path, upstreams={"up": {"base_url": f"{up.url}/base/v1"}}, **settings) as proxy:
            yield proxy, up


def post(proxy: InThread, body: Any, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(f"{proxy.url}/v1/ask", content=content, headers=headers)


def test_a_question_goes_upstream_as_a_chat_completion(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "6 times 7?"}, {"role": "assistant", "content": "42"}]
    body = {"question": "sûr?", "history": history, "client_id": "shop", "user_id": "u-7"}
    with asking(tmp_path) as (proxy, up):
        response = post(proxy, body, authorization="Bearer sk-x", **{"x-extra": "1", "content-md5": "of another body"})
        assert (response.status_code, response.content) == (200, COMPLETION)
        (request,) = up.requests
        assert request.request_line == b"POST /base/v1/chat/completions HTTP/1.1"
        assert json.loads(request.body) == {
            "model": "m-1",
            "messages": [
                {"role": "system", "content": "Be brief."},
                *history,
                {"role": "user", "content": "sûr?"},
            ],
        }
        sent = {name.lower(): value for name, value in request.headers}
        assert sent[b"authorization"] == b"Bearer sk-x"
        assert sent[b"x-extra"] == b"1"
        assert int(sent[b"content-length"]) == len(request.body)
        assert b"content-md5" not in sent
        assert b"shop" not in request.head + request.body, "the ids are sent on only where that is configured"
        assert b"x-llmproxy" not in request.head.lower()
        exchange = proxy.exchange()
        assert (exchange.path, exchange.request_body) == ("/v1/chat/completions", request.body)


@pytest.mark.parametrize(
    ("send_ids", "sent"),
    [
        (["user"], {"user": "u-7"}),
        (["metadata"], {"metadata": {"client_id": "shop", "user_id": "u-7"}}),
        (["user", "metadata"], {"user": "u-7", "metadata": {"client_id": "shop", "user_id": "u-7"}}),
    ],
)
def test_the_ids_are_sent_on_where_that_is_configured(
    tmp_path: Path, send_ids: list[str], sent: dict[str, Any]
) -> None:
    with asking(tmp_path, ask={"model": "m-1", "send_ids": send_ids}) as (proxy, up):
        post(proxy, {"question": "q", "client_id": "shop", "user_id": "u-7"})
        post(proxy, {"question": "q"})
    messages = [{"role": "user", "content": "q"}]
    assert json.loads(up.requests[0].body) == {"model": "m-1", "messages": messages} | sent
    assert json.loads(up.requests[1].body) == {"model": "m-1", "messages": messages}


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def test_a_stream_passes_piece_by_piece(tmp_path: Path) -> None:
    seen = threading.Event()

    def handler(connection: Connection, request: RawRequest) -> bool:
        assert json.loads(request.body)["stream"] is True
        connection.send(STREAM_HEAD + b"data: {}\n\nda")
        if seen.wait(20):
            connection.send(b"ta: [DONE]\n\n")
        return False

    with asking(tmp_path, handler) as (proxy, _), httpx2.Client(trust_env=False) as client:
        with client.stream("POST", f"{proxy.url}/v1/ask", json=Q | {"stream": True}) as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"data: {}\n\nda"
            seen.set()
            assert b"".join(pieces) == b"ta: [DONE]\n\n"
        assert proxy.exchange().outcome == "complete"


def test_a_client_that_goes_closes_the_upstreams_request(tmp_path: Path) -> None:
    gone = threading.Event()

    def handler(connection: Connection, request: RawRequest) -> bool:
        connection.send(STREAM_HEAD + b"data: {}\n\n")
        if connection.wait_closed():
            gone.set()
        return False

    with asking(tmp_path, handler) as (proxy, _), httpx2.Client(trust_env=False) as client:
        with client.stream("POST", f"{proxy.url}/v1/ask", json=Q | {"stream": True}) as response:
            next(response.iter_raw())
        assert gone.wait(20)
        assert proxy.exchange().outcome == "client_gone"


def test_an_upstreams_error_passes_unchanged(tmp_path: Path) -> None:
    error = b'{"error": {"message": "no such model", "code": "model_not_found"}}'
    with asking(tmp_path, lambda c, r: c.send(answer(error, status=b"404 Not Found"))) as (proxy, _):
        response = post(proxy, {"question": "q"})
        assert (response.status_code, response.content) == (404, error)
        assert "x-llmproxy-error" not in response.headers


def test_what_is_recorded(tmp_path: Path) -> None:
    """The ids are in the database, one query away, and the conversation is in the logs like any other."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "upstreams: {mock: {app: 'llmproxy.inprocess.mock:create_app'}}\nask: {model: mock, system: Be brief.}\n"
    )
    with serving(tmp_path, "--config", str(config)) as program:
        url = f"{program.url}/v1/ask"
        ids = {"client_id": "shöp\nline 2", "user_id": "u 7%"}
        first = httpx2.post(url, json={"question": "one"} | ids)
        said = first.json()["choices"][0]["message"]["content"]
        history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": said}]
        httpx2.post(url, json={"question": "two", "history": history, "stream": True, "user_id": "u 7%"})
        # Such a field of a program's own says nothing.
        plain = {"model": "mock", "messages": [{"role": "user", "content": "three"}]}
        headers = {"x-llmproxy-ask-user-id": "mallory"}
        httpx2.post(f"{program.url}/v1/chat/completions", json=plain, headers=headers)
        rows = program.exchanges(3, "path, via, ask_client_id, ask_user_id, status, thread_id")
        turns = program.turns(3)
    path = "/v1/chat/completions"
    thread = rows[0][-1]
    assert rows[:2] == [
        (path, "/v1/ask", "shöp\nline 2", "u 7%", 200, thread),
        (path, "/v1/ask", None, "u 7%", 200, thread),
    ]
    assert rows[2][:4] == (path, None, None, None)
    prompts = {turn["prompt"]: turn for turn in turns}
    assert prompts["two"]["response"] == "You said: two (earlier messages: 1)"
    assert prompts["two"]["system"] == "Be brief."


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InThread, RawUpstream]]:
    with asking(tmp_path_factory.mktemp("shared")) as both:
        yield both


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["question"]),
        ([], ["question"]),
        ({"question": ""}, ["question"]),
        (
            {"question": None, "history": "x", "client_id": 5, "stream": 1},
            ["question", "history", "client_id", "stream"],
        ),
        (Q | {"history": [{"role": "user"}]}, ["history[0].content"]),
        (Q | {"history": [{"role": "tool", "content": "x"}, 1]}, ["history[0].role", "history[1]"]),
        (Q | {"history": [{"role": "user", "content": "x", "name": "y"}]}, ["history[0].name"]),
        (Q | {"user_id": ""}, ["user_id"]),
        (Q | {"user_id": "x" * 257}, ["user_id"]),
        (Q | {"histroy": []}, ["histroy"]),
        (b'{"question": "\\ud800"}', ["question"]),
    ],
)
def test_missing_and_wrong_fields_are_named(shared: tuple[InThread, RawUpstream], body: Any, fields: list[str]) -> None:
    proxy, up = shared
    response = post(proxy, body)
    assert response.status_code == 422
    assert response.headers["x-llmproxy-error"] == "invalid_fields"
    error = response.json()["error"]
    assert [each["param"] for each in error["fields"]] == fields
    assert (error["param"], error["type"], error["code"]) == (fields[0], "invalid_request_error", "invalid_fields")
    assert all(f"{field}: " in error["message"] for field in fields)
    assert up.requests == [] and proxy.exchanges() == [], "what is refused is counted, not captured"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"question=q", {}, 400, "bad_request"),
        (b"[" * 200_000, {}, 400, "bad_request"),
        (b"\xff", {}, 400, "bad_request"),
        (Q, {"content-encoding": "gzip"}, 400, "bad_request"),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413, "body_too_large"),
        (Q, {"origin": "https://evil.example"}, 403, "origin_refused"),
    ],
    ids=["form", "deep", "binary", "gzip", "large", "origin"],
)
def test_other_refusals(
    shared: tuple[InThread, RawUpstream], body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    proxy, up = shared
    response = post(proxy, body, **headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert up.requests == []
    assert proxy.app.metrics.refused[code] > 0


def test_a_client_that_goes_inside_its_body(shared: tuple[InThread, RawUpstream]) -> None:
    proxy, up = shared
    before = proxy.app.metrics.refused["bad_request"]
    with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
        sock.sendall(b'POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"question"')
    eventually(lambda: proxy.app.metrics.refused["bad_request"] > before, "the refusal")
    assert up.requests == []


def test_without_a_model_it_says_what_to_set(tmp_path: Path) -> None:
    with asking(tmp_path, ask={}) as (proxy, up):
        response = post(proxy, Q)
        assert (response.status_code, response.headers["x-llmproxy-error"]) == (404, "ask_not_configured")
        assert "set ask.model in the configuration" in response.json()["error"]["message"]
        # Other methods are the provider's.
        assert httpx2.get(f"{proxy.url}/v1/ask").content == COMPLETION
    assert [request.request_line for request in up.requests] == [b"GET /base/v1/ask HTTP/1.1"]


def test_a_key_is_required_where_there_are_clients(tmp_path: Path) -> None:
    with asking(tmp_path, security={"clients": {"shop": "secret-key-1"}}) as (proxy, up):
        assert post(proxy, Q).status_code == 401
        assert post(proxy, Q, authorization="Bearer secret-key-1").status_code == 200
        (request,) = up.requests
        assert b"secret-key-1" not in request.head
        assert proxy.exchange().client == "shop"


def test_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROXY_ASK__MODEL", "m-2")
    assert load().ask.model == "m-2"
    (tmp_path / "config.yaml").write_text("ask: {modle: x}\n")
    with pytest.raises(ConfigError, match=r"ask\.modle: there is no 'modle'; did you mean 'model'\?"):
        load(tmp_path / "config.yaml")
