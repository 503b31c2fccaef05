"""A search-and-answer service behind the proxy: OpenAI's package talks to it as to any model, over real sockets."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import openai
import pytest

from llmproxy.config import ConfigError
from llmproxy.upstreams import load_app
from tests.inprocess.legacy_service import ANSWER, WHOLE, Action, LegacyService, legacy_service, word
from tests.proxy import InThread, proxy_in_thread, serving

APP = "llmproxy.inprocess.foreign_sse:create_app"
ASK: dict[str, Any] = {"model": "search", "messages": [{"role": "user", "content": "do lemons sink?"}]}


@contextmanager
def searching(
    tmp_path: Path, *script: bytes | Action, status: int = 200, **options: Any
) -> Iterator[tuple[LegacyService, InThread]]:
    with legacy_service(*script, status=status) as service:
        upstream = {"app": APP, "options": {"url": service.url} | options}
        with proxy_in_thread(tmp_path, upstreams={"search": upstream}) as proxy:
            yield service, proxy


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


def events(body: bytes) -> list[Any]:
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def test_words_citations_and_what_is_captured(tmp_path: Path) -> None:
    """As a user has it: the program, the openai package, the logs."""
    with legacy_service() as service:
        config = tmp_path / "config.yaml"
        config.write_text(f"upstreams:\n  search: {{app: '{APP}', options: {{url: '{service.url}'}}}}\n")
        with serving(tmp_path, "--config", str(config)) as program, client_of(program.url) as client:
            assert [model.id for model in client.models.list()] == ["search"]
            chunks = list(client.chat.completions.create(stream=True, **ASK))
            whole = client.chat.completions.create(**ASK)
            turns = program.turns(2)
    texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert texts == ["", "Lemons ", "don't ", "sink.", "\n\nCitations:\n\n- doc-7\n- doc-2", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert whole.choices[0].message.content == WHOLE
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is None, "the service tells none, and none is invented"
    assert [turn["response"] for turn in turns] == [WHOLE, WHOLE]
    assert [turn["prompt"] for turn in turns] == ["do lemons sink?"] * 2
    assert [turn["model"].rpartition("/")[2] for turn in turns] == ["search"] * 2
    query = b"topNDocuments=3&sessionID=12345&search_query=do+lemons+sink%3F"
    assert service.asked == [("GET", "/stream", query)] * 2


def test_words_come_as_they_are_sent(tmp_path: Path) -> None:
    with searching(tmp_path, word("one "), "wait", word("two")) as (service, proxy), client_of(proxy.url) as client:
        stream = client.chat.completions.create(stream=True, **ASK)
        texts = []
        for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
            if texts[-1] == "one ":
                service.go.set()
    assert texts == ["", "one ", "two", None]


@pytest.mark.parametrize("before", [b"", word("one ")])
def test_a_client_that_goes_closes_the_services_connection(tmp_path: Path, before: bytes) -> None:
    with searching(tmp_path, before, "hang") as (service, proxy), client_of(proxy.url) as client:
        if before:
            stream = client.chat.completions.create(stream=True, **ASK)
            assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "one "]
            stream.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=0.3).chat.completions.create(**ASK)
        assert service.gone.wait(20)
        assert proxy.exchange().outcome == "client_gone"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LegacyService, InThread]]:
    """A service and a proxy for tests that look at no more than their own answer."""
    with searching(tmp_path_factory.mktemp("shared"), query_parameter="q uery") as both:
        yield both


@pytest.mark.parametrize(
    ("script", "status", "options", "said"),
    [
        ([b"no index today"], 503, {}, "it answered with status 503: no index today"),
        (["cut"], 200, {}, "peer closed connection|incomplete|disconnected"),
        (["hang"], 200, {"timeout": 0.2}, "it said nothing for 0.2 seconds"),
        ([b"<html>\n", b"</html>\n"], 200, {}, r"nothing that it sent could be understood \(2 lines\)"),
        ([], 200, {"url": "http://127.0.0.1:9/stream"}, r"The search service \(127\.0\.0\.1:9\) failed: .*connect"),
    ],
)
def test_a_service_that_gives_no_answer_is_a_502(
    tmp_path: Path, script: list[Any], status: int, options: dict[str, Any], said: str
) -> None:
    with searching(tmp_path, *script, status=status, **options) as (_, proxy), client_of(proxy.url) as client:
        for stream in (True, False):
            with pytest.raises(openai.InternalServerError, match=said) as raised:
                client.chat.completions.create(stream=stream, **ASK)
            error = raised.value
            assert (error.status_code, error.code, error.type) == (502, "service_failed", "server_error")
            assert "x-llmproxy-error" not in error.response.headers, "the proxy forwarded it; it is not the proxy's own"
        assert [(exchange.status, exchange.outcome) for exchange in proxy.exchanges()] == [(502, "complete")] * 2


def test_a_service_that_breaks_off_is_seen(tmp_path: Path) -> None:
    with searching(tmp_path, word("one "), "wait", "cut") as (service, proxy):
        with (
            client_of(proxy.url) as client,
            pytest.raises(openai.APIError, match=r"The search service \(127\.0\.0\.1:\d+\) failed"),
        ):
            for chunk in client.chat.completions.create(stream=True, **ASK):
                if chunk.choices[0].delta.content == "one ":
                    service.go.set()
        with httpx2.Client(trust_env=False) as plain:
            received = b""
            with pytest.raises(httpx2.RemoteProtocolError):
                with plain.stream("POST", f"{proxy.url}/v1/chat/completions", json=ASK | {"stream": True}) as response:
                    for piece in response.iter_raw():
                        received += piece
            *_, last = events(received)
            assert last["error"]["code"] == "service_failed"
            assert plain.post(f"{proxy.url}/v1/chat/completions", json=ASK).status_code == 502
        outcomes = [exchange.outcome for exchange in proxy.exchanges()]
        assert outcomes[-2:] == ["upstream_cut", "complete"]


@pytest.mark.parametrize("stream", [True, False])
def test_broken_lines_are_skipped_counted_and_told(
    tmp_path: Path, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (word("one "), b"data: {'type': 'response', 'data': 'don't'}\n\n", b"what?\n", word("two"))
    with searching(tmp_path, *script) as (_, proxy), httpx2.Client(trust_env=False) as client:
        answer = client.post(f"{proxy.url}/v1/chat/completions", json=ASK | {"stream": stream})
        item = events(answer.content)[-2] if stream else answer.json()
    assert item["llmproxy"] == {"skipped_lines": 2}
    assert item["choices"][0]["finish_reason"] == "stop"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "llmproxy.foreign_sse" in line]
    assert "skipped: 2; the first is line 3" in line
    assert "search_query" not in line


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        ("a&b=c #d/é\n\N{LEMON}", "a&b=c #d/é\n\N{LEMON}"),
        ([{"type": "text", "text": "what is"}, {"type": "text", "text": "this?"}], "what is\nthis?"),
        (
            [{"type": "image_url", "image_url": {"url": "data:,x"}}, {"type": "text", "text": "what is this?"}],
            "what is this?",
        ),
    ],
)
def test_the_question(shared: tuple[LegacyService, InThread], content: Any, asked: str) -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "the first"},
        {"role": "assistant", "content": "an answer"},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "and so"},
    ]
    service, proxy = shared
    with client_of(proxy.url) as client:
        create: Any = client.chat.completions.create
        create(model="search", messages=messages, temperature=0.1, max_tokens=5)
    _, _, query = service.asked[-1]
    assert parse_qsl(query.decode())[2:] == [("q uery", asked)]


def test_what_the_service_leaves_out_can_be_added(tmp_path: Path) -> None:
    options: dict[str, Any] = {"separator": " ", "citations_heading": "", "model": "library"}
    script = [word("two"), word("words"), ANSWER[1]]
    with searching(tmp_path, *script, **options) as (_, proxy), client_of(proxy.url) as client:
        answer = client.chat.completions.create(model="library", messages=ASK["messages"])
        assert answer.model == "library"
        assert answer.choices[0].message.content == "two words\n\n- doc-7"


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("chat/completions", ASK | {"model": "gpt-5"}, 404, "model", "model_not_found"),
        ("chat/completions", ASK | {"n": 2}, 400, "n", "invalid_value"),
        ("chat/completions", {"model": "search"}, 400, "messages", "missing_required_parameter"),
        ("chat/completions", ASK | {"messages": [{"role": "user", "content": " "}]}, 400, "messages", None),
        ("chat/completions", ASK | {"messages": [{"role": "system", "content": "x"}]}, 400, "messages", None),
        (
            "chat/completions",
            ASK | {"messages": [{"role": "user", "content": "x" * 70_000}]},
            400,
            "messages",
            "string_too_long",
        ),
        ("embeddings", {}, 404, None, None),
        ("models", {}, 405, None, "method_not_supported"),
    ],
)
def test_what_is_refused(
    shared: tuple[LegacyService, InThread],
    path: str,
    body: dict[str, Any],
    status: int,
    param: str | None,
    code: str | None,
) -> None:
    service, proxy = shared
    asked = len(service.asked)
    with httpx2.Client(trust_env=False) as client:
        answer = client.post(f"{proxy.url}/v1/{path}", json=body)
        assert answer.status_code == status
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
        assert len(service.asked) == asked


def test_its_models(shared: tuple[LegacyService, InThread]) -> None:
    _, proxy = shared
    with client_of(proxy.url) as client:
        assert client.models.retrieve("search").id == "search"
        with pytest.raises(openai.NotFoundError, match="The model 'gpt-5' does not exist"):
            client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "url: Field required"),
        ({"url": "ftp://x"}, "url: .*give a URL such as"),
        ({"url": "http://[x"}, "url: .*is no URL"),
        ({"url": "http://x/a b"}, "url: .*spaces"),
        ({"url": "http://x/?search_query="}, "url has a search_query already"),
        ({"url": "http://x", "modle": "y"}, "modle: Extra inputs are not permitted"),
        ({"url": "http://x", "timeout": 0}, "timeout: .*greater than 0"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^upstreams\.up\.options: {APP} refuses them: {said}") as raised:
        load_app(APP, options, "up")
    assert "\n" not in str(raised.value)
