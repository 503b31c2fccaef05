"""The mock as its users meet it: OpenAI's own client against a real server."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx2
import openai
import pytest
from pydantic import BaseModel, ValidationError
from starlette.types import Message

from llmproxy.inprocess.mock import ScriptedCut, create_app
from llmproxy.inprocess.mock_answer import answer_for, prompt_tokens, tokens
from llmproxy.transports.asgi import ASGITransport
from tests.proxy import app_in_thread, eventually

IMAGE = "data:image/png;base64,iVBORw0KGgo="
FAST = {"chunk_delay": 0}
HELLO: list[Any] = [{"role": "user", "content": "Hello, what is 2 + 2?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
            "required": ["city"],
        },
    },
}


@contextmanager
def mock(**options: Any) -> Iterator[tuple[openai.OpenAI, str]]:
    with app_in_thread(create_app(FAST | options)) as port:
        url = f"http://127.0.0.1:{port}"
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client:
            yield client, url


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[openai.OpenAI, str]]:
    with mock() as running:
        yield running


@pytest.fixture
def client(served: tuple[openai.OpenAI, str]) -> Any:
    """OpenAI's client, not so strictly typed: requests are written as the dicts that they are."""
    return served[0]


@pytest.fixture
def url(served: tuple[openai.OpenAI, str]) -> str:
    return served[1]


def chat(client: Any, content: Any = "Hi", *, mock: dict[str, Any] | None = None, **request: Any) -> Any:
    messages = request.pop("messages", [{"role": "user", "content": content}])
    return client.chat.completions.create(model="mock", messages=messages, extra_body={"mock": mock or {}}, **request)


def text_of(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_an_answer_follows_from_its_request(client: Any) -> None:
    completion = client.chat.completions.create(model="gpt-anything", messages=HELLO)
    (choice,) = completion.choices
    assert choice.message.role == "assistant" and choice.message.content == answer_for(HELLO)
    assert choice.message.content == "You said: Hello, what is 2 + 2?"
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert completion.id.startswith("chatcmpl-") and completion.object == "chat.completion"
    assert completion.model == "gpt-anything" and completion.system_fingerprint == "fp_mock"
    assert completion.usage.prompt_tokens == prompt_tokens(HELLO) == tokens(HELLO[0]["content"]) == 6
    assert completion.usage.completion_tokens == tokens(choice.message.content)
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0
    assert completion._request_id.startswith("req_mock")


def test_a_stream_joined_is_the_answer(client: Any) -> None:
    with client.chat.completions.create(model="mock", messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    assert text_of(chunks) == answer_for(HELLO)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-1]][:3] == ["You", " said:", " Hello,"]
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].object == "chat.completion.chunk"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_in_its_usage_where_that_is_wanted(client: Any) -> None:
    with chat(client, stream=True, stream_options={"include_usage": True}) as stream:
        *others, last = list(stream)
    assert last.choices == [] and last.usage.total_tokens == 1 + tokens("You said: Hi")
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in others)


def test_a_stream_on_the_wire(url: str) -> None:
    response = httpx2.post(f"{url}/v1/chat/completions", json={"messages": HELLO, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text.startswith('data: {"id":"chatcmpl-') and response.text.endswith("\n\ndata: [DONE]\n\n")


def test_a_conversation_is_noticed(client: Any) -> None:
    first = chat(client, "One").choices[0].message
    messages = [{"role": "user", "content": "One"}, first.model_dump(), {"role": "user", "content": "Two"}]
    assert chat(client, messages=messages).choices[0].message.content == "You said: Two (earlier messages: 1)"


def test_several_choices(client: Any) -> None:
    whole = chat(client, n=2)
    assert [choice.message.content for choice in whole.choices] == ["You said: Hi", "You said: Hi (choice 2)"]
    assert whole.usage.completion_tokens == sum(tokens(choice.message.content) for choice in whole.choices)
    with chat(client, n=2, stream=True) as stream:
        chunks = list(stream)
    assert [text_of(chunks, index) for index in (0, 1)] == [choice.message.content for choice in whole.choices]
    assert [chunk.choices[0].index for chunk in chunks[:4]] == [0, 1, 0, 1]


def test_an_image(client: Any) -> None:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    assert chat(client, content).choices[0].message.content == "You said: What is it? (attachments: 1)"


def test_a_tool_is_called_and_its_result_told(client: Any) -> None:
    choice = chat(client, "Weather?", tools=[TOOL], tool_choice="required").choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "text", "days": 3}
    messages = [
        {"role": "user", "content": "get_weather, please"},
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    told = chat(client, messages=messages, tools=[TOOL]).choices[0]
    assert told.message.content == "The tool said: sunny" and told.message.tool_calls is None


def test_a_streamed_tool_call_comes_in_pieces(client: Any) -> None:
    with chat(client, "Use get_weather.", tools=[TOOL], stream=True) as stream:
        chunks = list(stream)
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].id.startswith("call_") and all(delta.id is None for delta in deltas[1:])
    assert deltas[0].function.name == "get_weather" and deltas[0].function.arguments == "" and len(deltas) > 3
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == {"city": "text", "days": 3}
    assert chunks[-1].choices[0].finish_reason == "tool_calls" and chunks[0].choices[0].delta.content is None


def test_scripted_tool_calls_with_text_and_reasoning(client: Any) -> None:
    calls = [{"name": "a", "arguments": {"x": 1}, "id": "call_1"}, {"name": "b", "arguments": "{"}]
    script = {"answer": "I call.", "reasoning": "Let me think.", "tool_calls": calls}
    whole = chat(client, mock=script).choices[0].message
    assert whole.content == "I call." and whole.reasoning_content == "Let me think."
    assert [(call.function.name, call.function.arguments) for call in whole.tool_calls] == [
        ("a", '{"x": 1}'),
        ("b", "{"),
    ]
    assert whole.tool_calls[0].id == "call_1"
    with chat(client, mock=script, stream=True) as stream:
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Let me think."
    assert text_of(chunks) == "I call."
    pieces = [piece for delta in deltas for piece in delta.tool_calls or ()]
    assert "".join(piece.function.arguments for piece in pieces if piece.index == 0) == '{"x": 1}'


def test_a_script_does_not_call_again_after_the_tools_result(client: Any) -> None:
    """pydantic-ai and the AI SDK go on until there is no call, and the script is still in the question."""
    question = {"role": "user", "content": '/mock {"tool_calls": [{"name": "get_weather", "id": "call_1"}]} Rome?'}
    called = chat(client, messages=[question], tools=[TOOL]).choices[0]
    assert called.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    told = chat(client, messages=[question, called.message.model_dump(exclude_none=True), result], tools=[TOOL])
    assert told.choices[0].finish_reason == "stop" and told.choices[0].message.content == "The tool said: sunny"


class Person(BaseModel):
    name: str
    kind: Literal["cat", "dog"]
    age: int
    parents: list["Person"]
    partner: "Person | None"


def test_a_json_schema_is_answered(client: Any) -> None:
    parsed = (
        client.chat.completions.parse(model="mock", messages=HELLO, response_format=Person).choices[0].message.parsed
    )
    assert isinstance(parsed, Person) and (parsed.name, parsed.kind, parsed.age) == ("text", "cat", 1)


def test_json_mode(client: Any) -> None:
    content = chat(client, response_format={"type": "json_object"}).choices[0].message.content
    assert json.loads(content) == {"answer": "You said: Hi"}


@pytest.mark.parametrize(
    ("request_", "content", "reason"),
    [
        ({"max_tokens": 2}, "You said", "length"),
        ({"max_completion_tokens": 1, "max_tokens": 100}, "You ", "length"),
        ({"max_tokens": 100}, "You said: Hi", "stop"),
        ({"stop": ":"}, "You said", "stop"),
        ({"stop": ["nowhere", "aid", "ou"]}, "Y", "stop"),
    ],
)
def test_limits(client: Any, request_: dict[str, Any], content: str, reason: str) -> None:
    choice = chat(client, **request_).choices[0]
    assert (choice.message.content, choice.finish_reason) == (content, reason)
    with chat(client, stream=True, **request_) as stream:
        chunks = list(stream)
    assert (text_of(chunks), chunks[-1].choices[0].finish_reason) == (content, reason)


def test_a_script_of_the_words(client: Any) -> None:
    script = {"chunks": ["a", "", " b\n"], "finish_reason": "content_filter", "usage": {"total_tokens": 7}}
    with chat(client, mock=script, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-1]] == ["a", "", " b\n"]
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert last.usage.model_dump(exclude_none=True) == {"total_tokens": 7}


def test_a_script_in_header_fields_and_in_the_message(client: Any) -> None:
    assert chat(client, extra_headers={"x-mock-answer": "42"}).choices[0].message.content == "42"
    assert chat(client, '/mock {"answer": "scripted"}\nHi').choices[0].message.content == "scripted"
    assert chat(client, '/mock {"finish_reason": "length"}\nHi').choices[0].message.content == "You said: Hi"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_scripted_errors(client: Any, status: int, kind: type[openai.APIStatusError], stream: bool) -> None:
    script = {"status": status, "error": {"message": "No.", "code": "because"}, "retry_after": 7}
    with pytest.raises(kind) as raised:
        chat(client, mock=script, stream=stream)
    assert raised.value.code == "because" and "No." in raised.value.message
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.response.headers["content-type"] == "application/json"


def test_an_error_in_the_stream(client: Any) -> None:
    with chat(client, stream=True, mock={"error_after": 2, "error": "Overloaded."}) as stream:
        assert next(stream).choices and next(stream).choices
        with pytest.raises(openai.APIError, match="Overloaded"):
            next(stream)


@pytest.mark.parametrize("events", [0, 2, 5])
def test_a_cut_stream_looks_cut(client: Any, events: int) -> None:
    """Five events are all there are: then only `[DONE]` is missing."""
    seen = []
    with pytest.raises(httpx_errors()), chat(client, stream=True, mock={"cut_after": events}) as stream:
        for chunk in stream:
            seen.append(chunk)
    assert len(seen) == events


def test_a_cut_answer_looks_cut(client: Any) -> None:
    with pytest.raises(openai.APIConnectionError):
        chat(client, mock={"cut_after": 0})


def httpx_errors() -> tuple[type[Exception], ...]:
    """What OpenAI's client raises for a stream that breaks: its HTTP library's own error, or one of its own."""
    library = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
    return (library.TransportError, openai.APIConnectionError)


def test_garbage(client: Any, url: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        chat(client, mock={"garbage": True})
    with pytest.raises(json.JSONDecodeError), chat(client, mock={"garbage": True}, stream=True) as stream:
        list(stream)


def test_header_fields_are_echoed_in_order_with_duplicates(url: str) -> None:
    sent = [("X-One", "1"), ("x-two", "2"), ("X-One", "3"), ("x-mock-echo-headers", "true")]
    response = httpx2.post(f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=sent)
    fields = response.json()["headers"]
    assert [field for field in fields if field[0] in ("x-one", "x-two")] == [
        ["x-one", "1"],
        ["x-two", "2"],
        ["x-one", "3"],
    ]


def test_models(client: Any, url: str) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["mock", "mock-small", "mock-large"] and client.models.retrieve("mock").owned_by == "llmproxy"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-9")
    assert raised.value.code == "model_not_found"


def test_legacy_completions(client: Any) -> None:
    whole = client.completions.create(model="mock", prompt=["One", "Two"], n=2, max_tokens=100)
    assert [choice.text for choice in whole.choices] == ["You said: One"] * 2 + ["You said: Two"] * 2
    assert whole.id.startswith("cmpl-") and whole.usage.prompt_tokens == 2
    with client.completions.create(model="mock", prompt="One", stream=True, echo=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "OneYou said: One"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_embeddings(client: Any) -> None:
    """OpenAI's client asks for base64 by itself."""
    packed = client.embeddings.create(model="mock", input=["one", "two", "one"])
    plain = client.embeddings.create(model="mock", input="one", encoding_format="float")
    one, two, again = (item.embedding for item in packed.data)
    assert one == again != two and len(one) == 16 and one == pytest.approx(plain.data[0].embedding, rel=1e-6)
    assert sum(number**2 for number in one) == pytest.approx(1)
    assert len(client.embeddings.create(model="mock", input="one", dimensions=3).data[0].embedding) == 3


@pytest.mark.parametrize("path", ["/", "/health", "/v1/health", "/v1", "/v1/models", "/models", "/v1/models/mock/"])
def test_what_can_be_read(url: str, path: str) -> None:
    got = httpx2.get(url + path)
    head = httpx2.head(url + path)
    assert got.status_code == head.status_code == 200 and got.json()
    assert head.content == b"" and head.headers["content-length"] == got.headers["content-length"]


def test_paths_without_v1(url: str) -> None:
    answer = httpx2.post(f"{url}/chat/completions", json={"messages": HELLO}).json()
    assert answer["choices"][0]["message"]["content"] == answer_for(HELLO) and answer["model"] == "mock"


def test_a_key_where_one_is_required() -> None:
    with mock(require_key="sëcret") as (client, url):
        assert httpx2.get(f"{url}/health").status_code == 200
        with pytest.raises(openai.AuthenticationError) as raised:
            client.models.list()
        assert raised.value.code == "invalid_api_key"
        for name, value in (("Authorization", "Bearer sëcret"), ("x-api-key", "sëcret"), ("api-key", "sëcret")):
            headers = [(name.encode(), value.encode())]
            assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 200
    with mock(require_key=True) as (client, url):
        assert client.models.list().data and httpx2.get(f"{url}/v1/models").status_code == 401


def test_models_that_differ() -> None:
    models = ["plain", {"name": "poor", "quality": 0, "price": 2, "speed": 0.5}]
    with mock(models=models) as (client, _):
        poor: Any = client.chat.completions.create(model="poor", messages=HELLO)
        assert poor.choices[0].message.content == "I do not know." and poor.usage.cost == pytest.approx(10 * 2 / 1e6)
        plain = client.chat.completions.create(model="plain", messages=HELLO)
        assert plain.choices[0].message.content == answer_for(HELLO) and plain.usage
        assert "cost" not in plain.usage.model_dump()


@pytest.mark.parametrize(
    "options",
    [{"delay": 1}, {"chunk_delay": -1}, {"models": []}, {"models": ["a", "a"]}, {"models": [{"name": "a", "x": 1}]}],
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        create_app(options)


def test_one_line_for_each_request(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llmproxy.mock"):
        httpx2.post(f"{url}/v1/chat/completions?a=1", json={"model": "a\nb", "messages": HELLO, "stream": True})
        httpx2.get(f"{url}/v1/no%0Asuch")
        eventually(lambda: len(lines(caplog)) == 2, "the log lines")
    first, second = lines(caplog)
    assert first.startswith(r"POST /v1/chat/completions model='a\nb' stream=True status=200 tokens=6+8 ms=")
    assert first.endswith(" complete")
    assert second.startswith("GET /v1/no%0Asuch model=None stream=False status=404 tokens=- ms=")


def test_a_client_that_goes_stops_the_stream(url: str, caplog: pytest.LogCaptureFixture) -> None:
    request = {"messages": HELLO, "stream": True, "mock": {"chunk_delay": 600}}
    with caplog.at_level(logging.INFO, "llmproxy.mock"):
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=request) as response:
            pieces = response.iter_raw()
            next(pieces)
        eventually(lambda: lines(caplog), "the log line")
    assert lines(caplog)[0].endswith("client gone")


def test_a_client_that_goes_before_the_response(url: str, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"messages": HELLO, "mock": {"first_delay": 600}}).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with caplog.at_level(logging.INFO, "llmproxy.mock"):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head + body)
        eventually(lambda: lines(caplog), "the log line")
    assert lines(caplog)[0].endswith("client gone")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "llmproxy.mock"]


class Server:
    """An ASGI server's side of one request."""

    def __init__(self, body: bytes, *, breaks_after: int | None = None) -> None:
        self.messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._breaks_after = breaks_after

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.sent) == self._breaks_after:
            raise OSError("the client is gone")
        self.sent.append(message)
        if message.get("body", b"").count(b" word"):
            self.gone.set()

    async def run(self, options: dict[str, Any] | None = None) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/prefix/v1/chat/completions",
            "root_path": "/prefix",
            "headers": [],
        }
        await create_app(options)(scope, self.receive, self.send)


def test_even_a_stream_without_pauses_ends_when_the_client_goes() -> None:
    request = {"messages": HELLO, "stream": True, "mock": {"answer": " word" * 1000}}
    server = Server(json.dumps(request).encode())
    asyncio.run(server.run(FAST))
    assert len(server.sent) < 10


def test_a_server_that_tells_by_send_that_the_client_is_gone() -> None:
    server = Server(json.dumps({"messages": HELLO, "stream": True}).encode(), breaks_after=3)
    asyncio.run(server.run(FAST))
    assert len(server.sent) == 3


def test_a_client_that_goes_inside_its_request() -> None:
    server = Server(b"")
    server.messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    asyncio.run(server.run())
    assert server.sent == []


def test_a_cut_is_raised_to_the_server() -> None:
    server = Server(json.dumps({"messages": HELLO, "mock": {"cut_after": 1}}).encode())
    with pytest.raises(ScriptedCut):
        asyncio.run(server.run())
    assert server.sent[0]["status"] == 200 and server.sent[-1]["more_body"]


def test_it_runs_in_the_serving_process() -> None:
    """Through the transport of `app:` upstreams: a stream, a cut, and a reader that goes."""

    async def talk() -> None:
        async with httpx2.AsyncClient(transport=ASGITransport(create_app(FAST)), base_url="http://mock") as client:
            request: dict[str, Any] = {"messages": HELLO, "stream": True}
            assert (await client.post("/v1/chat/completions", json=request)).text.endswith("data: [DONE]\n\n")
            with pytest.raises(httpx2.ReadError):
                await client.post("/v1/chat/completions", json=request | {"mock": {"cut_after": 2}})
            slow = request | {"mock": {"chunk_delay": 600}}
            async with client.stream("POST", "/v1/chat/completions", json=slow) as response:
                await anext(response.aiter_raw())

    asyncio.run(asyncio.wait_for(talk(), 20))


def test_lifespan_and_websocket() -> None:
    async def exchange(kind: str) -> list[str]:
        sent: list[str] = []

        async def receive() -> Message:
            return {"type": "anything"}

        async def send(message: Message) -> None:
            sent.append(message["type"])

        await create_app()({"type": kind}, receive, send)
        return sent

    assert asyncio.run(exchange("lifespan")) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asyncio.run(exchange("websocket")) == ["websocket.close"]


def test_it_starts_without_llm_and_without_a_client_library() -> None:
    code = (
        "import sys, llmproxy.inprocess.mock; print([n for n in ('llm', 'httpx2', 'sqlite_utils') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
