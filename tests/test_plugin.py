"""`llm` with the plug-in: its commands, the upstreams' models by name, and captured conversations gone on with."""

import asyncio
import gc
import json
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import llm
import pytest
from click.testing import CliRunner, Result
from llm.cli import cli

from llmproxy import registration
from llmproxy.cli import main
from tests.proxy import serving
from tests.raw_upstream import Connection, RawRequest, RawUpstream, answer, raw_upstream
from tests.store.conversations import Recordings, assistant, user

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


class Llm:
    """The `llm` command as a process, with a home of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        foreign = ("LLMPROXY_", "LLM_", "OPENAI_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environment |= {"LLM_USER_PATH": str(home), **environment}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for `llm` in this process as well."""
    for name in list(os.environ):
        if name.startswith(("LLMPROXY_", "LLM_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    registration._configuration.cache_clear()
    registration._tell.cache_clear()
    return tmp_path


def llm_here(*arguments: str) -> Result:
    """The `llm` command in this process, which takes a tenth of the time."""
    return CliRunner().invoke(cli, arguments, input="")


def configure(home: Path, **upstreams: Any) -> str:
    path = home / "config.yaml"
    path.write_text(json.dumps({"upstreams": upstreams}))  # JSON is YAML
    return str(path)


def chunk(**delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "served", "choices": [choice]}


def event_stream(*events: Any) -> bytes:
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
    return answer(body, headers=b"content-type: text/event-stream\r\n")


@contextmanager
def provider(*answers: bytes) -> Iterator[RawUpstream]:
    """A provider that gives these answers in turn, the last one from then on."""
    left = list(answers)

    def give(connection: Connection, request: RawRequest) -> bool:
        connection.send(left.pop(0) if len(left) > 1 else left[0])
        return False

    with raw_upstream(give) as up:
        yield up


def sent(up: RawUpstream, at: int = -1) -> Any:
    return json.loads(up.requests[at].body)


def header(up: RawUpstream, name: bytes, at: int = -1) -> list[bytes]:
    return [value for key, value in up.requests[at].headers if key.lower() == name]


TEXT = event_stream(chunk(role="assistant", content="It is "), chunk(content="sunny."))


def test_the_commands_of_llmproxy(home: Path) -> None:
    run = Llm(home)
    assert "llmproxy serve --upstream" in run("proxy", "serve", "--help")
    assert set(main.commands) <= set(llm_here("proxy", "-h").output.split()) and "proxy" in llm_here("--help").output
    assert [(p["name"], p["hooks"]) for p in json.loads(run("plugins"))] == [
        ("llmproxy", ["register_commands", "register_models"])
    ]


def test_a_captured_conversation_goes_on_at_its_upstream_without_the_proxy(tmp_path: Path) -> None:
    """Tool calls and reasoning go back as they came; nobody answered the last call."""
    thinking = {"role": "assistant", "content": None, "reasoning_content": "Rome, then.", "tool_calls": [CALL]}
    second = CALL | {"id": "call_2"}
    captured = {
        "id": "c0",
        "object": "chat.completion",
        "created": 1,
        "model": "deepseek-reasoner",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": thinking | {"tool_calls": [second], "reasoning_content": "Once more."},
            }
        ],
    }
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Rome?"},
        thinking,
        {"role": "tool", "tool_call_id": "call_1", "content": "error"},
    ]
    with provider(answer(json.dumps(captured).encode()), TEXT) as up:
        settings = {"base_url": f"{up.url}/beta", "default_headers": {"authorization": "Bearer sk-1", "X-Team": "a"}}
        environment = {"LLMPROXY_CONFIG": configure(tmp_path, deepseek=settings)}
        with serving(tmp_path, environment=environment) as program:
            body = {"model": "deepseek-reasoner", "messages": history}
            httpx2.post(f"{program.url}/v1/chat/completions", json=body).raise_for_status()
            program.exchanges(1)
        run = Llm(tmp_path, **environment)
        assert run("-c", "and now?") == "It is sunny.\n"
        assert up.requests[-1].request_line == b"POST /beta/chat/completions HTTP/1.1"
        assert header(up, b"authorization") == [b"Bearer sk-1"] and header(up, b"x-team") == [b"a"]
        assert sent(up)["model"] == "deepseek-reasoner" and sent(up)["stream"] is True
        assert sent(up)["messages"] == [
            *history,
            thinking | {"tool_calls": [second], "reasoning_content": "Once more."},
            {"role": "tool", "tool_call_id": "call_2", "content": "(no result was recorded)"},
            {"role": "user", "content": "and now?"},
        ]
        assert run("-c", "and then?", "-m", "deepseek/other") == "It is sunny.\n"
        assert sent(up)["model"] == "other" and len(sent(up)["messages"]) == 9
        logs = json.loads(run("logs", "--json", "-n", "0"))
    assert [log["model"] for log in logs] == ["deepseek-reasoner", "deepseek/deepseek-reasoner", "deepseek/other"]
    assert len({log["conversation_id"] for log in logs}) == 1


@pytest.fixture
def recorded(home: Path) -> Recordings:
    """Turns of the model `m` through the upstream `up`."""
    recordings = Recordings()
    recordings.exchange([user("q")], assistant("a"))
    return recordings


def write(recordings: Recordings, home: Path) -> None:
    recordings.write()
    with sqlite3.connect(home / "logs.db") as file:
        recordings.db.conn.backup(file)
    file.close()


def names() -> dict[str, list[str]]:
    """What the plug-in registers: ids, with their aliases."""
    return {
        known.model.model_id: sorted(known.aliases)
        for known in llm.get_models_with_aliases()
        if str(known.model).startswith("llmproxy: ")
    }


def use(monkeypatch: pytest.MonkeyPatch, home: Path, **upstreams: Any) -> None:
    registration._configuration.cache_clear()
    monkeypatch.setenv("LLMPROXY_CONFIG", configure(home, **upstreams))


LOCAL = {"base_url": "http://127.0.0.1:9/v1"}
FAR = {"base_url": "https://far.example/v1"}


def test_captured_and_configured_models_are_registered(
    home: Path, recorded: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.exchange([user("q")], assistant("a"), model="gpt-4o")
    recorded.exchange([user("q")], model="failed")
    write(recorded, home)
    use(monkeypatch, home, up=LOCAL | {"models": ["m", "org/large"]})
    assert names() == {"up/m": ["m"], "up/org/large": [], "up/gpt-4o": []}
    assert str(llm.get_model("m")) == "llmproxy: up/m" == str(llm.get_async_model("m"))
    assert str(llm.get_model("gpt-4o")) == "OpenAI Chat: gpt-4o"


@pytest.mark.parametrize(
    ("settings", "key", "usable"),
    [
        (LOCAL, {}, True),
        (FAR, {}, False),
        (FAR, {"FAR_AI_API_KEY": "k"}, True),
        (FAR, {"OPENAI_API_KEY": "k"}, False),
        (FAR | {"default_headers": {"X-Api-Key": "k"}}, {}, True),
        (FAR | {"default_headers": {"Authorization": None}}, {}, True),
        (FAR | {"default_headers": {"X-Team": "a"}}, {}, False),
        ({"app": "llmproxy.inprocess.mock:create_app"}, {}, False),
    ],
)
def test_only_what_can_be_called_is_registered(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, key: Mapping[str, str], usable: bool
) -> None:
    for name, value in key.items():
        monkeypatch.setenv(name, value)
    use(monkeypatch, home, **{"far-ai": settings})
    (home / "aliases.json").write_text('{"short": "far-ai/m"}')
    assert names() == ({"far-ai/m": ["short"]} if usable else {})


def test_a_key_of_llm_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with provider(TEXT) as up:
        # An address that is not called loopback: no key is asked for there.
        use(monkeypatch, home, up={"base_url": f"http://0.0.0.0:{up.port}/v1"})
        refused = llm_here("-m", "up/m", "hi")
        assert refused.exit_code == 1 and "the upstream 'up' has no key" in refused.stderr
        assert "`llm keys set up`" in refused.stderr
        (home / "keys.json").write_text('{"up": "sk-2"}')
        asked = llm_here("-m", "up/m", "hi", "-o", "reasoning_effort", "low", "--no-log")
        assert asked.output == "It is sunny.\n"
    assert header(up, b"authorization") == [b"Bearer sk-2"]
    assert sent(up)["model"] == "m" and sent(up)["reasoning_effort"] == "low"


def test_a_header_that_is_null_is_not_sent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with provider(TEXT) as up:
        settings = {"base_url": f"{up.url}/v1", "default_headers": {"authorization": None, "user-agent": None}}
        use(monkeypatch, home, up=settings | {"models": ["m"]})
        assert llm.get_model("up/m").prompt("hi").text() == "It is sunny."

        async def ask() -> str:
            return await llm.get_async_model("up/m").prompt("hi").text()

        assert run(ask()) == "It is sunny."
    for at in (0, 1):
        assert header(up, b"authorization", at) == header(up, b"user-agent", at) == []
        assert header(up, b"content-type", at) == [b"application/json"]


def run(coroutine: Coroutine[Any, Any, str]) -> str:
    """`asyncio.run`, and what `llm` leaves open: its async models do not close the client that they make for a call."""
    said = asyncio.run(coroutine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return said


def test_async_with_a_tool_a_schema_and_an_image(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weather(city: str) -> str:
        return f"sunny in {city}"

    calls = event_stream(chunk(role="assistant", tool_calls=[CALL | {"index": 0}]))
    with provider(calls, TEXT) as up:
        use(monkeypatch, home, up={"base_url": f"{up.url}/v1", "models": ["m"]})
        model = llm.get_async_model("up/m")

        async def ask() -> str:
            image = llm.Attachment(type="image/png", content=b"png")
            chain = model.chain("Weather?", tools=[weather], attachments=[image], schema={"type": "object"})
            return await chain.text()

        assert run(ask()) == "It is sunny."
    first, second = sent(up, 0), sent(up, 1)
    assert first["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert first["tools"][0]["function"]["name"] == "weather" and first["response_format"]["type"] == "json_schema"
    assert second["messages"][-1] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny in Rome"}


def test_a_conversation_of_the_responses_api_goes_on_there(
    home: Path, recorded: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(recorded, home)
    with sqlite3.connect(home / "logs.db") as db:
        db.execute("update llmproxy_exchange_rows set api = 'responses'")
    db.close()
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed"}
    message["content"] = [{"type": "output_text", "text": "It is sunny.", "annotations": []}]  # type: ignore[assignment]
    response = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "output": [message], "tools": []}
    with provider(answer(json.dumps(response).encode())) as up:
        use(monkeypatch, home, up={"base_url": f"{up.url}/v1"})
        assert llm_here("-c", "and now?", "--no-stream").output == "It is sunny.\n"
    assert up.requests[-1].request_line == b"POST /v1/responses HTTP/1.1"
    assert [item["content"] for item in sent(up)["input"]] == ["q", "a", "and now?"]


def test_the_upstream_of_the_conversation_decides_where_two_have_the_model(
    home: Path, recorded: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.exchange([user("other")], assistant("a"))
    write(recorded, home)
    with sqlite3.connect(home / "logs.db") as db:
        threads = [row[0] for row in db.execute("select thread_id from llmproxy_exchanges order by id")]
        db.execute("update llmproxy_exchange_rows set upstream = 'second' where thread_id = ?", [threads[1]])
    db.close()
    with provider(TEXT) as one, provider(TEXT) as two:
        use(monkeypatch, home, up={"base_url": f"{one.url}/v1"}, second={"base_url": f"{two.url}/v1"})
        llm_here("--cid", threads[0], "and now?", "--no-log")
        assert (len(one.requests), len(two.requests)) == (1, 0)
        llm_here("-c", "and now?", "--no-log")
        assert (len(one.requests), len(two.requests)) == (1, 1)


def test_a_conversation_whose_upstream_is_gone_says_so(
    home: Path, recorded: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(recorded, home)
    use(monkeypatch, home, other=LOCAL)
    failed = llm_here("-c", "and now?")
    assert failed.exit_code == 1
    assert "no upstream 'up', which it came through" in failed.stderr and "LLMPROXY_CONFIG" in failed.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no such file"), ("upstreams: {x: {base_url: 1", "is not YAML"), ("prot: 1", "did you mean")],
)
def test_a_wrong_configuration_is_one_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    path = home / "wrong.yaml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("LLMPROXY_CONFIG", str(path))
    assert llm.get_model("gpt-4o") and llm.get_model("gpt-4o-mini") and names() == {}
    warning = capsys.readouterr().err
    assert warning.count(str(path)) == 1 and says in warning


def test_a_database_that_cannot_be_read_knows_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, home, up=LOCAL)
    (home / "logs.db").write_bytes(b"no database" * 100)
    assert names() == {}
    (home / "logs.db").unlink()
    with sqlite3.connect(home / "logs.db", isolation_level=None) as db:
        db.execute("create table unrelated (a)")
        assert names() == {}
        db.execute("begin exclusive")
        assert names() == {}
        db.rollback()
    db.close()


def test_what_is_not_used_is_not_loaded(home: Path) -> None:
    script = (
        "import sys, llm.cli; llm.get_models_with_aliases();"
        "print([name for name in sys.modules if name.startswith('llmproxy.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=Llm(home).environment, capture_output=True, text=True, check=True
    )
    loaded = ["llmproxy.plugin", "llmproxy.registration", "llmproxy.store", "llmproxy.store.captured_models"]
    assert sorted(json.loads(done.stdout.replace("'", '"'))) == loaded
