"""`llm`'s own models behind the proxy: the openai package talks to them as to any provider, over real sockets."""

import asyncio
import base64
import concurrent.futures
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llm
import openai
import pytest
from llm.parts import StreamEvent, TextPart, ToolResultPart
from llm.plugins import load_plugins, pm
from pydantic import Field

from llmproxy.config import ConfigError
from llmproxy.upstreams import load_app
from tests.inprocess.test_replay import ingest
from tests.proxy import InThread, eventually, proxy_in_thread, serving

APP = "llmproxy.inprocess.llm_models:create_app"
QUESTION: list[Any] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


class Seen:
    """What the models were asked, and how far they were read."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []
        self.keys: list[str | None] = []
        self.script: Callable[[Any], Iterator[Any]] = iter
        self.begun = 0
        self.given = 0
        self.closed = threading.Event()


SEEN = Seen()


class Options(llm.Options):
    temperature: float | None = Field(default=None, le=2)
    max_tokens: int | None = None


class Sync(llm.Model):
    model_id = "sync"
    can_stream = True
    attachment_types = {"image/png"}  # noqa: RUF012
    supports_tools = True
    supports_schema = True
    Options = Options  # type: ignore[assignment]

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[Any]:
        SEEN.prompts.append(prompt)
        if prompt.tools and not any(isinstance(part, ToolResultPart) for part in prompt.messages[-1].parts):
            # As plug-ins did it before there were events.
            yield "I look."
            response.add_tool_call(llm.ToolCall("weather", {"city": "Rome"}, "call_1"))
            return
        yield StreamEvent("reasoning", "hm")
        yield from ("sync ", "says ", prompt.prompt or "nothing")
        response.set_usage(input=5, output=3)


class Slow(llm.Model):
    model_id = "slow"
    can_stream = True

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        SEEN.begun += 1
        SEEN.given = 0
        SEEN.closed.clear()
        try:
            while True:
                SEEN.given += 1
                yield "again "
                time.sleep(0.001)
        finally:
            SEEN.closed.set()


class Async(llm.AsyncKeyModel):
    model_id = "async"
    can_stream = True
    needs_key = "fake"
    key_env_var = "FAKE_KEY"
    supports_tools = True

    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any, key: str | None
    ) -> AsyncGenerator[Any]:
        SEEN.keys.append(key)
        if prompt.tools:
            yield StreamEvent("tool_call_name", "weather", tool_call_id="call_9")
            for piece in ('{"city": ', '"Rome"}'):
                yield StreamEvent("tool_call_args", piece, tool_call_id="call_9")
            return
        if prompt.prompt == "forever":
            SEEN.closed.clear()
            try:
                while True:
                    yield "again "
            finally:
                SEEN.closed.set()
        yield "async"


class Broken(llm.Model):
    model_id = "broken"
    can_stream = True

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        if prompt.prompt == "later":
            yield "so far"
        raise RuntimeError("the provider is on fire")


class Scripted(llm.Model):
    """Says what `SEEN.script` yields, given the response."""

    can_stream = True
    supports_tools = True

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[Any]:
        yield from SEEN.script(response)


class ScriptedAsync(llm.AsyncModel):
    model_id = "scripted-async"
    can_stream = True
    supports_tools = True

    async def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> AsyncGenerator[Any]:
        for event in SEEN.script(response):
            yield event


class Keyed(llm.Model):
    """Asks for its key by itself, as plug-ins did before `llm` gave it to them."""

    model_id = "keyed"
    needs_key = "fake"
    key_env_var = "FAKE_KEY"

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        SEEN.keys.append(self.get_key())
        yield "keyed"


class _KeyModel(llm.KeyModel):
    model_id = "async"
    needs_key = "fake"

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any, key: str | None) -> Iterator[str]:
        yield "never: there is an async form"


class Plugin:
    @llm.hookimpl
    def register_models(self, register: Any) -> None:
        register(Sync(), aliases=("s",))
        register(Slow())
        register(Broken())
        register(_KeyModel(), Async())
        register(Keyed())
        register(Scripted("scripted"))
        register(Scripted("scripted-async"), ScriptedAsync())


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.setenv("FAKE_KEY", "from-llm")
    load_plugins()
    plugin = Plugin()
    pm.register(plugin)
    SEEN.prompts.clear()
    SEEN.keys.clear()
    SEEN.begun = 0
    yield
    pm.unregister(plugin)


@contextmanager
def client(tmp_path: Path, **options: Any) -> Iterator[tuple[openai.OpenAI, InThread]]:
    options.setdefault("models", ["sync", "s", "slow", "async", "broken", "keyed", "scripted", "scripted-async"])
    upstream = {"app": APP, "options": options}
    with (
        proxy_in_thread(tmp_path, upstreams={"llm": upstream}) as proxy,
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="from-client", max_retries=0, timeout=60) as found,
    ):
        yield found, proxy


def test_a_conversation_streamed_and_whole(tmp_path: Path) -> None:
    with client(tmp_path) as (ask, proxy):
        listed = ["sync", "s", "slow", "broken", "async", "keyed", "scripted", "scripted-async"]
        assert [model.id for model in ask.models.list()] == listed
        assert ask.models.retrieve("s").id == "s"
        options: Any = {"model": "s", "messages": QUESTION, "temperature": 0.5, "max_completion_tokens": 9}
        whole = ask.chat.completions.create(**options)
        chunks = list(ask.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    said: Any = whole.choices[0].message
    assert (said.content, said.reasoning_content) == ("sync says three", "hm")
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and (whole.usage.prompt_tokens, whole.usage.total_tokens) == (5, 8)
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert [delta.content for delta in deltas if delta.content] == ["sync ", "says ", "three"]
    assert [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")] == ["hm"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
    for prompt in SEEN.prompts:
        texts = [(message.role, part.text) for message in prompt.messages for part in message.parts]
        assert texts == [("system", "Be short."), ("user", "one"), ("assistant", "two"), ("user", "three")]
        assert (prompt.options.temperature, prompt.options.max_tokens) == (0.5, 9)
    # The proxy records it, and `llm` itself does not record it again.
    ingest(proxy.config)
    db = sqlite3.connect(tmp_path / "logs.db")
    assert db.execute("select response from turn_search").fetchall() == [("sync says three",)] * 2
    db.close()
    assert not (tmp_path / "llm" / "logs.db").exists()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "id"), [("sync", "call_1"), ("async", "call_9")])
def test_tools_are_called_by_the_client(tmp_path: Path, model: str, id: str, stream: bool) -> None:
    asked: Any = {"model": model, "messages": QUESTION[-1:], "tools": [TOOL]}
    with client(tmp_path) as (ask, _):
        if stream:
            with ask.chat.completions.stream(**asked) as events:
                message: Any = events.get_final_completion().choices[0]
        else:
            message = ask.chat.completions.create(**asked).choices[0]
        assert message.finish_reason == "tool_calls"
        (call,) = message.message.tool_calls
        assert (call.id, call.function.name, json.loads(call.function.arguments)) == (id, "weather", {"city": "Rome"})
        if model == "sync":
            result = {"role": "tool", "tool_call_id": id, "content": "sunny"}
            history: Any = [*QUESTION[-1:], message.message.model_dump(exclude_none=True), result]
            after = ask.chat.completions.create(model=model, messages=history, tools=[TOOL])
            assert after.choices[0].message.content == "sync says nothing"
            assert [message.role for message in SEEN.prompts[-1].messages] == ["user", "assistant", "tool"]


def event_call(name: str, arguments: str, id: str | None = None, text: str = "") -> Iterator[StreamEvent]:
    yield StreamEvent("tool_call_name", name, tool_call_id=id)
    if text:
        yield StreamEvent("text", text)
    for piece in (arguments[:3], arguments[3:]):
        yield StreamEvent("tool_call_args", piece, tool_call_id=id)


def without_ids(response: Any) -> Iterator[Any]:
    for city in "abb":
        yield from event_call("weather", f'{{"city": "{city}"}}')


def text_between(response: Any) -> Iterator[Any]:
    yield from event_call("weather", '{"city": "a"}', text="hm")
    yield from event_call("weather", '{"city": "b"}', text="hm")


def one_id_for_all(response: Any) -> Iterator[Any]:
    for city in "ab":
        yield from event_call("weather", f'{{"city": "{city}"}}', "weather")


def interleaved(response: Any) -> Iterator[Any]:
    for id in ("1", "2"):
        yield StreamEvent("tool_call_name", "weather", tool_call_id=id)
    for piece in ('{"city"', ': "a"}'):
        yield StreamEvent("tool_call_args", piece, tool_call_id="1")
        yield StreamEvent("tool_call_args", piece.replace("a", "b"), tool_call_id="2")


def told_again(response: Any) -> Iterator[Any]:
    """By events without ids, and with ids of its own at the end, in another order, with one more."""
    yield from without_ids(response)
    for city in "bbac":
        response.add_tool_call(llm.ToolCall("weather", {"city": city}))


def told_again_by_another_id(response: Any) -> Iterator[Any]:
    yield from event_call("weather", '{"city": "a"}', "event_1")
    yield from event_call("weather", '{"city": "a"}', "event_2")
    response.add_tool_call(llm.ToolCall("weather", {"city": "a"}, "end_1"))
    response.add_tool_call(llm.ToolCall("weather", {"city": "a"}, "event_1"))


def twice_at_the_end(response: Any) -> Iterator[Any]:
    for _ in range(2):
        response.add_tool_call(llm.ToolCall("weather", {"city": "a"}, "same"))
    yield ""


def arguments_at_the_end(response: Any) -> Iterator[Any]:
    yield StreamEvent("tool_call_name", "weather", tool_call_id="1")
    yield StreamEvent("tool_call_name", "now", tool_call_id="2")
    response.add_tool_call(llm.ToolCall("weather", {"city": "a"}, "1"))


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        (without_ids, "abb"),
        (text_between, "ab"),
        (one_id_for_all, "ab"),
        (interleaved, "ab"),
        (told_again, "abbc"),
        (told_again_by_another_id, "aa"),
        (twice_at_the_end, "aa"),
        (arguments_at_the_end, ["a", None]),
    ],
)
def test_each_tool_call_comes_out_once_with_an_id_of_its_own(
    tmp_path: Path, script: Callable[[Any], Iterator[Any]], calls: Any
) -> None:
    SEEN.script = script
    with client(tmp_path) as (ask, _):
        for model in ("scripted", "scripted-async"):
            asked: Any = {"model": model, "messages": QUESTION[-1:], "tools": [TOOL]}
            whole = ask.chat.completions.create(**asked).choices[0]
            with ask.chat.completions.stream(**asked) as events:
                streamed = events.get_final_completion().choices[0]
            for choice in (whole, streamed):
                assert choice.finish_reason == "tool_calls"
                told: Any = choice.message.tool_calls
                assert [json.loads(call.function.arguments).get("city") for call in told] == list(calls)
                assert len({call.id for call in told}) == len(told)


def test_an_image_and_a_schema(tmp_path: Path) -> None:
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked: Any = {
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }
    with client(tmp_path) as (ask, _):
        ask.chat.completions.create(model="sync", **asked)
        with pytest.raises(openai.BadRequestError) as refused:
            ask.chat.completions.create(model="slow", **asked)
    (prompt,) = SEEN.prompts
    assert [attachment.content for attachment in prompt.attachments] == [b"\x89PNG\r\n\x1a\n"]
    assert isinstance(prompt.messages[-1].parts[0], TextPart) and prompt.schema == schema
    assert refused.value.param == "response_format"


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


NOT_READ: list[tuple[dict[str, Any], str]] = [
    (image("data:image/png;base64,!!!"), ".image_url"),
    (image("data:image/png"), ".image_url"),
    (image(""), ".image_url"),
    (image(7), ".image_url"),
    (image("cat.png"), ".image_url"),
    (image("file:///etc/cat.png"), ".image_url"),
    (image("https:///cat.png"), ".image_url"),
    (image("https://[cat.png"), ".image_url"),
    (image("https://cats.example/cat"), ".image_url"),
    (image("https://cats.example/cat.gif"), ".image_url"),
    ({"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}, ".input_audio"),
    ({"type": "file", "file": {"file_id": "file-1"}}, ".file"),
    ({"type": "smell", "of": "roses"}, ""),
]


@pytest.mark.parametrize(("part", "place"), NOT_READ)
def test_an_attachment_that_cannot_be_read_is_refused_by_its_place(
    tmp_path: Path, part: dict[str, Any], place: str
) -> None:
    history: Any = [*QUESTION[:2], {"role": "user", "content": [{"type": "text", "text": "look"}, part]}]
    with client(tmp_path) as (ask, _):
        for messages in (history, [*history, QUESTION[-1]]):
            with pytest.raises(openai.BadRequestError) as refused:
                ask.chat.completions.create(model="sync", messages=messages)
            assert (refused.value.param, refused.value.code) == (f"messages[2].content[1]{place}", "invalid_value")
            assert f"'{refused.value.param}'" in refused.value.message
    assert not SEEN.prompts


def test_an_image_by_its_address_and_what_a_tool_gave_back(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    result = [{"type": "resource", "of": "the tool"}, image(PIXEL)]
    messages: Any = [
        {"role": "user", "content": [image("https://cats.example/cat.png")]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
    ]
    with client(tmp_path) as (ask, _):
        ask.chat.completions.create(model="sync", messages=messages)
        result[1] = image("data:image/gif;base64,AAAA")
        with pytest.raises(openai.BadRequestError, match=r"messages\[2\]\.content\[1\]\.image_url.*image/gif"):
            ask.chat.completions.create(model="sync", messages=messages)
    (prompt,) = SEEN.prompts
    asked, _, told = prompt.messages
    assert asked.parts[0].attachment.url == "https://cats.example/cat.png"
    assert "the tool" in told.parts[0].output and [each.type for each in told.parts[0].attachments] == ["image/png"]


@pytest.mark.parametrize(("model", "prompt"), [("slow", "go"), ("async", "forever")])
def test_a_client_that_goes_away_stops_the_model(tmp_path: Path, model: str, prompt: str) -> None:
    with client(tmp_path) as (ask, _):
        stream = ask.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], stream=True)
        for _ in range(5):
            next(stream)
        assert not SEEN.closed.is_set()
        stream.close()
        assert SEEN.closed.wait(10)
    if model == "slow":
        assert SEEN.given < 5_000


def test_a_model_that_knows_no_async_answers_one_after_the_other(tmp_path: Path) -> None:
    with client(tmp_path) as (ask, _):
        asked: Any = {"model": "slow", "messages": QUESTION[-1:], "stream": True}
        first = ask.chat.completions.create(**asked)
        next(first)
        waiting: list[Any] = []
        second = threading.Thread(target=lambda: waiting.append(ask.chat.completions.create(**asked)))
        second.start()
        for _ in range(20):
            next(first)
        assert not waiting
        first.close()
        second.join(10)
        waiting[0].close()


def test_requests_that_wait_for_a_model_take_nothing_from_others_and_leave_with_their_clients(tmp_path: Path) -> None:
    body = json.dumps({"model": "slow", "messages": QUESTION[-1:]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked: Any = {"model": "slow", "messages": QUESTION[-1:], "stream": True}
    with client(tmp_path) as (ask, proxy):
        first = ask.chat.completions.create(**asked)
        next(first)
        with ExitStack() as waiting:
            for _ in range(70):
                sock = waiting.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
                sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert ask.chat.completions.create(model="sync", messages=QUESTION).choices[0].message.content
        eventually(lambda: len(proxy.exchanges()) == 71, "all who waited are gone")
        first.close()
        second = ask.chat.completions.create(**asked)
        next(second)
        assert SEEN.begun == 2
        second.close()


STUCK = """
import threading
import llm
from llm.plugins import load_plugins, pm
from llmproxy.inprocess.llm_models import create_app

class Stuck(llm.Model):
    model_id = "stuck"
    can_stream = True

    def execute(self, prompt, stream, response, conversation):
        yield "so far"
        threading.Event().wait(60)

class Plugin:
    @llm.hookimpl
    def register_models(self, register):
        register(Stuck())

load_plugins()
pm.register(Plugin())
"""


def test_a_model_that_hangs_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    (tmp_path / "stuck_model.py").write_text(STUCK)
    config = tmp_path / "config.yaml"
    config.write_text("upstreams: {llm: {app: 'stuck_model:create_app', options: {models: [stuck]}}}\n")
    with serving(tmp_path, "--config", str(config), environment={"PYTHONPATH": str(tmp_path)}) as program:
        with openai.OpenAI(base_url=f"{program.url}/v1", api_key="any", max_retries=0) as ask:
            stream = ask.chat.completions.create(model="stuck", messages=QUESTION[-1:], stream=True)
            next(stream)
            stream.close()
        assert program.stop(signal.SIGTERM) == 0


REFUSED: list[tuple[dict[str, Any], int, str | None, str | None]] = [
    ({"model": "gpt-0"}, 404, "model", "model_not_found"),
    ({"temperature": 3}, 400, "temperature", "invalid_value"),
    ({"top_p": 0.5}, 400, "top_p", "unsupported_parameter"),
    ({"n": 2}, 400, "n", "invalid_value"),
    ({"model": "slow", "max_tokens": 1}, 400, "max_tokens", "unsupported_parameter"),
    ({"model": "slow", "tools": [TOOL]}, 400, "tools", "unsupported_parameter"),
    ({"messages": []}, 400, "messages", None),
    ({"model": "broken"}, 502, None, "model_failed"),
]


@pytest.mark.parametrize(("asked", "status", "param", "code"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, asked: dict[str, Any], status: int, param: str | None, code: str | None, stream: bool
) -> None:
    with client(tmp_path) as (ask, _), pytest.raises(openai.APIStatusError) as refused:
        ask.chat.completions.create(**{"model": "sync", "messages": QUESTION, "stream": stream, **asked})
    assert (refused.value.status_code, refused.value.param) == (status, param)
    assert code is None or refused.value.code == code
    assert status != 502 or "RuntimeError: the provider is on fire" in str(refused.value)


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Any = {"model": "async", "messages": QUESTION[-1:]}
    with client(tmp_path) as (ask, _):
        ask.chat.completions.create(**asked)
        monkeypatch.delenv("FAKE_KEY")
        with pytest.raises(openai.AuthenticationError, match="llm keys set fake"):
            ask.chat.completions.create(**asked)
    with client(tmp_path / "client", keys="client") as (ask, _):
        ask.chat.completions.create(**asked)
    assert SEEN.keys == ["from-llm", "from-client"]


def test_a_key_of_a_client_is_used_as_it_is(tmp_path: Path) -> None:
    keys = {"fake": "operators", "other": "secret"}
    with client(tmp_path, keys="client") as (ask, _):
        (tmp_path / "llm").mkdir(exist_ok=True)
        (tmp_path / "llm" / "keys.json").write_text(json.dumps(keys))
        for model in ("async", "keyed"):
            asked: Any = {"model": model, "messages": QUESTION[-1:]}
            for own in ("from-client", "FAKE_KEY"):
                ask.with_options(api_key=own).chat.completions.create(**asked)
            for name in keys:
                with pytest.raises(openai.AuthenticationError) as refused:
                    ask.with_options(api_key=name).chat.completions.create(**asked)
                assert refused.value.code == "invalid_api_key"
        assert SEEN.keys == ["from-client", "FAKE_KEY"] * 2
        # A model that needs no key is given none, whatever is sent.
        ask.with_options(api_key="other").chat.completions.create(model="sync", messages=QUESTION)
        # The key was that request's alone, and without one the operator's is not lent.
        without = {"Authorization": openai.Omit()}
        with pytest.raises(openai.AuthenticationError):
            ask.chat.completions.create(model="keyed", messages=QUESTION[-1:], extra_headers=without)
        ask.chat.completions.create(model="sync", messages=QUESTION, extra_headers=without)
        assert SEEN.keys == ["from-client", "FAKE_KEY"] * 2


@pytest.mark.parametrize("model", ["scripted", "scripted-async"])
@pytest.mark.parametrize(
    "error", [concurrent.futures.CancelledError("its own"), asyncio.CancelledError("its own"), SystemExit("its own")]
)
def test_a_plug_in_that_is_cancelled_or_exits_has_failed(tmp_path: Path, model: str, error: BaseException) -> None:
    def at_once(response: Any) -> Iterator[Any]:
        raise error
        yield

    def later(response: Any) -> Iterator[Any]:
        yield "so far"
        raise error

    asked: Any = {"model": model, "messages": QUESTION[-1:]}
    told = f"{type(error).__name__}: its own"
    with client(tmp_path) as (ask, _):
        for script, stream in ((at_once, False), (at_once, True), (later, False)):
            SEEN.script = script
            with pytest.raises(openai.InternalServerError, match=told) as refused:
                ask.chat.completions.create(stream=stream, **asked)
            assert (refused.value.status_code, refused.value.code) == (502, "model_failed")
        with pytest.raises(openai.APIError, match=told):
            list(ask.chat.completions.create(stream=True, **asked))


def test_a_model_that_fails_in_the_middle_ends_badly(tmp_path: Path) -> None:
    with client(tmp_path) as (ask, _):
        stream = ask.chat.completions.create(
            model="broken", messages=[{"role": "user", "content": "later"}], stream=True
        )
        with pytest.raises(openai.APIError, match="the provider is on fire"):
            list(stream)


def test_wrong_options_are_told() -> None:
    with pytest.raises(ConfigError, match="keys"):
        load_app(APP, {"keys": "mine"}, "llm")
