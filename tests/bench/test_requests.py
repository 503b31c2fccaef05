"""Captured turns as requests: the same API gives the same turn again, others what they have a word for."""

import json
from typing import Any

import pytest
from llm import Attachment, Tool
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.bench.requests import BenchRequest, Untranslatable, api_for, build
from llmproxy.bench.results import Target
from llmproxy.config import UpstreamConfig
from llmproxy.reconstruct import NotReconstructed, Reconstruction, api_of
from llmproxy.reconstruct.turn import Api, Turn
from llmproxy.store.captured import CapturedTurn
from tests.corpus import CORPUS, Record, fixture_records, records
from tests.store.conversations import assistant, call, result, system, user

RECORDS = records() if CORPUS.is_dir() else fixture_records()
CITY = Tool(name="weather", description="Tells it.", input_schema={"type": "object", "properties": {"city": {}}})
SEARCH = Tool(name="web_search", description=None, input_schema={"type": "web_search_20250305", "max_uses": 3})
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def turn(*input: Message, api: Api = "chat.completions", **fields: Any) -> CapturedTurn:
    values: dict[str, Any] = {
        "id": "t",
        "thread_id": None,
        "model": "m",
        "output": (),
        "tools": (),
        "schema": None,
        "options": {},
        "input_tokens": None,
        "output_tokens": None,
        "token_details": {},
        "started_utc": None,
        "duration_ms": None,
        "api": api,
        "upstream": "up",
    }
    return CapturedTurn(input=input, **(values | fields))


def body(turn: CapturedTurn, api: Api, **options: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(request(turn, api, **options).body)
    return decoded


def request(turn: CapturedTurn, api: Api, **options: Any) -> BenchRequest:
    return build(turn, Target("t", "up", "new", options), api)


def read(api: Api, record_body: bytes, headers: Any = ()) -> Turn:
    reconstruction = Reconstruction(api, request_headers=tuple(headers), request_body=record_body)
    return reconstruction.finish(complete=False)


@pytest.mark.parametrize("api", ["chat.completions", "messages", "responses", "completions"])
def test_what_was_recorded_is_asked_again_to_the_letter(api: Api) -> None:
    compared = 0
    for record in RECORDS:
        if api_of("POST", record.path) != api:
            continue
        asked = _read(record, api)
        if asked is None or not asked.input:
            continue
        captured = turn(*asked.input, api=api, tools=asked.tools, schema=asked.schema, options=asked.options)
        try:
            again = read(api, request(captured, api).body)
        except Untranslatable as exc:
            assert "has run in it" in str(exc), record.id
            continue
        options = {name: value for name, value in asked.options.items() if name != "stream_options"}
        options |= {name: value for name, value in again.options.items() if name == "stream_options"}
        assert again.input == asked.input, record.id
        assert (again.tools, again.schema, again.options) == (asked.tools, asked.schema, options), record.id
        assert again.model == "new"
        compared += 1
    assert compared > 0


PICTURE = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}


@pytest.mark.parametrize(
    ("api", "field", "messages"),
    [
        (
            "messages",
            "messages",
            [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": PICTURE, "transformations": [{"type": "crop"}]}],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "toolset_name": "s"},
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x", "toolset_name": "s"}],
                },
            ],
        ),
        (
            "responses",
            "input",
            [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
                {
                    "type": "reasoning",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "t"}],
                    "signature": "s",
                    "format": "f",
                },
                {"type": "computer_call", "call_id": "c", "actions": [{"type": "wait"}]},
            ],
        ),
        (
            "chat.completions",
            "messages",
            [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t", "signature": "s"}]},
                        {"type": "text", "text": "a"},
                    ],
                },
                {"role": "user", "content": "q"},
                {"role": "assistant", "reasoning_text": "t", "reasoning_opaque": "o", "content": "a"},
            ],
        ),
    ],
)
def test_what_only_some_servers_say_goes_back_to_the_letter(api: Api, field: str, messages: list[Any]) -> None:
    asked = read(api, json.dumps({"model": "m", field: messages}).encode())
    assert body(turn(*asked.input, api=api), api)[field] == messages


def _read(record: Record, api: Api) -> Turn | None:
    try:
        headers = [(name.lower().encode(), value.encode()) for name, value in record.request_headers.items()]
        return read(api, record.request_body, headers)
    except NotReconstructed:
        return None


@pytest.mark.parametrize("source", ["chat.completions", "messages", "responses"])
@pytest.mark.parametrize("target", ["chat.completions", "messages", "responses"])
def test_what_is_translated_is_understood_on_the_other_side(source: Api, target: Api) -> None:
    for record in RECORDS:
        if source == target or api_of("POST", record.path) != source or (asked := _read(record, source)) is None:
            continue
        captured = turn(*asked.input, api=source, tools=asked.tools, schema=asked.schema, options=asked.options)
        try:
            again = read(target, request(captured, target).body)
        except Untranslatable as exc:
            assert str(exc), record.id
            continue
        assert again.notes == (), record.id
        assert [tool.name for tool in again.tools] == [tool.name for tool in asked.tools], record.id
        assert (again.schema is None) == (asked.schema is None), record.id
        assert _calls(again.input) == _calls(asked.input), record.id
        # A document's text may have come to it, and the order of text and calls inside of an answer is not the same.
        said = _texts(again.input)
        for role, text in _texts(asked.input):
            assert text in "".join(t for r, t in said if r == role), record.id


def _texts(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    parts = [(message.role, part) for message in messages for part in message.parts]
    return [(role, part.text) for role, part in parts if isinstance(part, TextPart)]


def _calls(messages: tuple[Message, ...]) -> list[tuple[str, str | None, str]]:
    parts = [part for message in messages for part in message.parts]
    calls = [(part.name, part.tool_call_id, "") for part in parts if isinstance(part, ToolCallPart)]
    return calls + [("", part.tool_call_id, part.output) for part in parts if isinstance(part, ToolResultPart)]


CONVERSATION = (
    system("Be brief."),
    user("Weather?"),
    assistant("One moment.", call("c1", "weather", city="Bonn"), call("c2", "weather", city="Köln")),
    Message("tool", [ToolResultPart(name="weather", output="12", tool_call_id="c1")]),
    result("c2", "13"),
    user("And tomorrow?"),
)


def test_a_conversation_with_tools_in_the_words_of_messages() -> None:
    sent = body(turn(*CONVERSATION, tools=(CITY,), options={"max_tokens": 9, "temperature": 1.5}), "messages")
    assert sent["system"] == "Be brief."
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["messages"][1]["content"][1] == {
        "type": "tool_use",
        "id": "c1",
        "name": "weather",
        "input": {"city": "Bonn"},
    }
    assert [block["type"] for block in sent["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
    assert sent["tools"] == [{"name": "weather", "description": "Tells it.", "input_schema": CITY.input_schema}]
    assert (sent["max_tokens"], sent["temperature"], sent["stream"]) == (9, 1, True)


def test_a_conversation_with_tools_in_the_words_of_chat_completions() -> None:
    sent = body(turn(*CONVERSATION, api="messages", tools=(CITY,), options={"max_tokens": 9}), "chat.completions")
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert sent["messages"][2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Bonn"}'}
    assert sent["messages"][4] == {"role": "tool", "tool_call_id": "c2", "content": "13"}
    assert sent["tools"][0]["function"]["parameters"] == CITY.input_schema
    assert sent["stream_options"] == {"include_usage": True}


CHAT: Api = "chat.completions"
FUNCTION = {"type": "function", "function": {"name": "f"}}
ALONE = {"disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("source", "options", "target", "wanted", "left_out"),
    [
        (CHAT, {"max_completion_tokens": 5}, "messages", {"max_tokens": 5}, ()),
        (CHAT, {"stop": "x"}, "messages", {"stop_sequences": ["x"], "max_tokens": 4096}, ()),
        (CHAT, {"tool_choice": "required"}, "messages", {"tool_choice": {"type": "any"}}, ()),
        (CHAT, {"tool_choice": FUNCTION}, "messages", {"tool_choice": {"type": "tool", "name": "f"}}, ()),
        (CHAT, {"parallel_tool_calls": False}, "messages", {"tool_choice": {"type": "auto", **ALONE}}, ()),
        (CHAT, {"logit_bias": {"1": 2}, "user": "me"}, "messages", {}, ("logit_bias",)),
        (CHAT, {"reasoning_effort": "minimal"}, "messages", {}, ("reasoning_effort",)),
        (CHAT, {"reasoning_effort": "low"}, "responses", {"reasoning": {"effort": "low"}}, ()),
        (CHAT, {"max_tokens": 3}, "responses", {"max_output_tokens": 3}, ()),
        ("messages", {"tool_choice": {"type": "any", **ALONE}}, CHAT, {"parallel_tool_calls": False}, ()),
        ("messages", {"stop_sequences": ["x"], "top_k": 3}, CHAT, {"stop": ["x"]}, ("top_k",)),
        ("messages", {"thinking": {"type": "enabled"}}, CHAT, {}, ("thinking",)),
        ("messages", {"output_config": {"effort": "high"}}, CHAT, {"reasoning_effort": "high"}, ()),
        ("responses", {"max_output_tokens": 7}, CHAT, {"max_tokens": 7}, ()),
        ("responses", {"reasoning": {"effort": "low"}}, CHAT, {"reasoning_effort": "low"}, ()),
        ("responses", {"tool_choice": {"type": "function", "name": "f"}}, CHAT, {"tool_choice": FUNCTION}, ()),
    ],
)
def test_options_in_other_words(
    source: Api, options: dict[str, Any], target: Api, wanted: dict[str, Any], left_out: tuple[str, ...]
) -> None:
    written = request(turn(user("q"), api=source, options=options), target)
    sent = json.loads(written.body)
    assert {name: sent.get(name) for name in wanted} == wanted
    assert written.notes == tuple(f"not sent: {name}" for name in left_out)
    assert "user" not in sent


def test_a_schema_finds_its_place_in_each_api() -> None:
    named = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True}}}
    captured = turn(user("q"), schema=SCHEMA, options=named)
    chat = body(captured, "chat.completions")["response_format"]
    assert chat == {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
    text = body(captured, "responses")["text"]
    assert text == {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}
    assert body(captured, "messages")["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}


def image(**attachment: Any) -> Message:
    return Message("user", [AttachmentPart(Attachment(type="image/png", **attachment))])


@pytest.mark.parametrize(
    ("message", "chat", "messages"),
    [
        (
            image(content=b"\x89PNG"),
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}},
        ),
        (
            image(url="https://x.test/a.png"),
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        ),
        (
            Message("user", [AttachmentPart(Attachment("text/plain", content=b"hi"), {"anthropic": {"title": "T"}})]),
            "T\n\nhi",
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}, "title": "T"},
        ),
    ],
)
def test_attachments(message: Message, chat: Any, messages: Any) -> None:
    content = body(turn(message, api="messages"), "chat.completions")["messages"][0]["content"]
    assert content == (chat if isinstance(chat, str) else [chat])
    assert body(turn(message), "messages")["messages"][0]["content"] == [messages]


def part_in(role: str, part: Part) -> Message:
    return Message(role, [TextPart("x"), part])


@pytest.mark.parametrize(
    ("captured", "target", "reason"),
    [
        (turn(user("q"), api="messages", tools=(SEARCH,)), "chat.completions", "the tool web_search is run by its"),
        (turn(user("q"), user("r"), api="completions"), "chat.completions", "completions cannot be translated"),
        (turn(user("q"), api="responses", whole_input=False), "responses", "the provider kept the conversation's"),
        (turn(user("a"), system("s")), "messages", "a system message in the middle"),
        (turn(system("s")), "messages", "no message beside the system's"),
        (turn(part_in("user", AttachmentPart(Attachment(type="audio/wav", content=b"x")))), "messages", "audio"),
        (
            turn(part_in("user", AttachmentPart(None, {"openai": {"file_id": "f"}}))),
            "messages",
            "a file that the provider holds",
        ),
        (
            turn(part_in("assistant", ToolCallPart(name="web_search", server_executed=True)), api="messages"),
            "chat.completions",
            "the provider's own tool web_search has run in it",
        ),
        (
            turn(user("q"), api="responses", tools=(Tool("mcp", None, {"type": "mcp", "authorization": "REDACTED"}),)),
            "responses",
            "credentials are not recorded",
        ),
    ],
)
def test_what_cannot_be_translated_says_why(captured: CapturedTurn, target: Api, reason: str) -> None:
    with pytest.raises(Untranslatable, match=reason):
        request(captured, target)


def test_reasoning_goes_back_only_where_it_came_from() -> None:
    thought = ReasoningPart("hm", provider_metadata={"anthropic": {"signature": "s"}})
    captured = turn(user("q"), Message("assistant", [thought, TextPart("a")]), user("r"), api="messages")
    assert body(captured, "messages")["messages"][1]["content"][0]["signature"] == "s"
    assert "hm" not in json.dumps(body(captured, "chat.completions"))
    assert request(captured, "chat.completions").notes == ("not sent: reasoning of earlier answers",)


def test_a_targets_options_win_and_null_takes_one_out() -> None:
    captured = turn(user("q"), options={"temperature": 0.2, "logit_bias": {}, "user": "u"})
    sent = body(captured, "chat.completions", temperature=1, user=None, stream=False)
    assert (sent["temperature"], sent["stream"], "user" in sent, "stream_options" in sent) == (1, False, False, False)
    assert request(captured, "messages", logit_bias=None).notes == ()


@pytest.mark.parametrize(
    ("source", "upstream", "base_url", "asked", "wanted"),
    [
        ("messages", "up", "https://any.test/v1", None, "messages"),
        ("messages", "other", "https://api.deepseek.com/v1", None, "chat.completions"),
        ("chat.completions", "claude", "https://api.anthropic.com/v1", None, "messages"),
        ("responses", "openai", "https://api.openai.com/v1", None, "responses"),
        ("messages", "openai", "https://api.openai.com/v1", None, "chat.completions"),
        ("chat.completions", "up", "https://any.test/v1", "responses", "responses"),
    ],
)
def test_which_api_is_spoken(source: Api, upstream: str, base_url: str, asked: str | None, wanted: Api) -> None:
    target = Target("t", upstream, "m", api=asked)
    assert api_for(turn(user("q"), api=source), target, UpstreamConfig(base_url=base_url)) == wanted


def test_the_headers_that_change_an_answer_are_sent_again() -> None:
    sent = (("anthropic-beta", "b"), ("user-agent", "x"), ("x-api-key", "[redacted]"))
    assert request(turn(user("q"), api="messages", headers=sent), "messages").headers == (
        ("anthropic-beta", "b"),
        ("anthropic-version", "2023-06-01"),
    )
    assert request(turn(user("q"), api="messages", headers=sent), "chat.completions").headers == ()
