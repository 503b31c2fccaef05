"""The mock says the same in its three APIs: to the providers' own packages, and in the database."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from llmproxy.inprocess.mock import create_app
from tests.inprocess.speakers import APIS, ASK, SCHEMA, SCRIPT, SYSTEM, WHYS, Said
from tests.proxy import app_in_thread


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    models = [{"name": "mock"}, {"name": "dear", "price": 10}, {"name": "broken", "error_rate": 1}]
    with app_in_thread(create_app({"chunk_delay": 0, "models": models})) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=APIS, ids=[make.api for make in APIS])
def api(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    speaker = request.param(url)
    with speaker.client:
        yield speaker


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_usage(api: Any, stream: bool) -> None:
    said = api.ask("Hello, what is 2 + 2?", stream=stream)
    assert said == Said("You said: Hello, what is 2 + 2?", "", (), (9, 8), "mock", WHYS[api.api]["stop"])


def test_a_model_that_is_not_listed_is_played(api: Any) -> None:
    assert api.ask(model="anything-5") == Said("You said: Hi", "", (), (4, 3), "anything-5", WHYS[api.api]["stop"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_is_named_is_called_and_its_result_answered(api: Any, stream: bool) -> None:
    called = api.ask(ASK, tools=True, stream=stream)
    assert called.without_ids() == Said(
        "", "", (("get_weather", {"city": "text"}),), (15, 7), "mock", WHYS[api.api]["calls"]
    )
    answered = api.ask(ASK, after=called, tools=True, stream=stream)
    assert answered == Said("The tool said: sunny", "", (), (17, 5), "mock", WHYS[api.api]["stop"])


def test_a_script_is_followed_streamed_and_not_and_not_repeated_after_the_result(api: Any) -> None:
    whole, streamed = (api.ask(ASK, mock=SCRIPT, stream=stream) for stream in (False, True))
    assert whole.without_ids() == streamed.without_ids()
    assert (whole.text, whole.reasoning, whole.why) == ("Let me see.", "Weather is asked for.", WHYS[api.api]["calls"])
    assert whole.calls == (("get_weather", {"city": "Paris", "days": 3}),)
    assert api.ask(ASK, after=whole, mock=SCRIPT).calls == ()


def test_limit_and_schema(api: Any) -> None:
    cut = api.ask("Tell me a long story", limit=2)  # OpenAI's helpers for streams raise where one is cut
    assert (cut.text, cut.why) == ("You said", WHYS[api.api]["length"])
    for stream in (False, True):
        assert json.loads(api.ask(schema=True, stream=stream).text) == {"city": "text"}


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ({"status": 429, "error": "too fast"}, 429, "too fast"),
        ({"status": 529}, 529, "The request asked for this error."),
        ({"answr": "?"}, 400, "Unknown parameter: 'mock.answr'."),
    ],
)
def test_errors_are_in_the_shape_of_the_api(api: Any, script: Any, status: int, message: str) -> None:
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        api.ask(mock=script)
    error: Any = caught.value
    assert error.status_code == status and message in str(error)
    body: Any = error.body
    if api.api == "messages":
        kinds = {429: "rate_limit_error", 529: "overloaded_error", 400: "invalid_request_error"}
        assert (body["type"], body["error"]["type"], set(body["error"])) == (
            "error",
            kinds[status],
            {"type", "message"},
        )
    else:
        assert set(body) == {"message", "type", "param", "code"}


def test_a_models_error_rate_and_an_error_within_a_stream(api: Any) -> None:
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError), match="fails so often"):
        api.ask(model="broken")
    if api.api == "responses":
        events = list(api.client.responses.create(model="mock", input="Hi", stream=True, extra_body=FAILS_LATE))
        assert events[-1].type == "error" and events[-1].message == "no such luck"
        assert events[-1].sequence_number == len(events) - 1 == 2
    else:
        with pytest.raises((openai.APIError, anthropic.APIError), match="no such luck"):
            api.ask(mock=FAILS_LATE["mock"], stream=True)


FAILS_LATE: dict[str, Any] = {"mock": {"error_after": 2, "error": "no such luck"}}


def test_events_of_responses(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        body = {"mock": {**SCRIPT, "answer": "Yes"}}
        events = list(client.responses.create(model="mock", input="Hi", stream=True, extra_body=body))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds == [
        *("created", "in_progress", "output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done"),
        *("output_item.done", "content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("function_call_arguments.delta", "function_call_arguments.done", "completed"),
    ]
    final: Any = events[-1]
    assert [item.id[:3] for item in final.response.output] == ["rs_", "msg", "fc_"]
    assert len({item.id for item in final.response.output}) == 3


def test_a_tool_that_takes_text_gets_text(url: str) -> None:
    patch = "*** Begin Patch"
    body = {"mock": {"tool_calls": [{"name": "apply_patch", "arguments": patch}]}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        tools: Any = [{"type": "custom", "name": "apply_patch"}]
        for stream in (False, True):
            answer: Any = client.responses.create(model="mock", input="Hi", tools=tools, stream=stream, extra_body=body)
            response = list(answer)[-1].response if stream else answer
            (item,) = response.output
            assert (item.type, item.name, item.input) == ("custom_tool_call", "apply_patch", patch)


def test_counted_tokens_stop_sequences_and_models_for_anthropics_client(url: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Tell me, what is STOP here"}]
        counted = client.messages.count_tokens(model="mock", system=SYSTEM, messages=messages)
        said = client.messages.create(
            model="mock", system=SYSTEM, messages=messages, max_tokens=50, stop_sequences=["here", " STOP"]
        )
        assert counted.input_tokens == said.usage.input_tokens == 10
        assert (said.stop_reason, said.stop_sequence) == ("stop_sequence", " STOP")
        assert said.content[0].to_dict() == {"type": "text", "text": "You said: Tell me, what is"}
        assert [model.id for model in client.models.list()] == ["mock", "dear", "broken"]
        with pytest.raises(anthropic.NotFoundError, match="'other' does not exist"):
            client.models.retrieve("other")


def test_a_message_thread_that_goes_on_may_say_nothing_and_name_no_tools(url: str) -> None:
    going_on = {"thread": {"type": "continue", "previous_message_id": "msg_1"}}
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        said = client.messages.create(
            model="mock", max_tokens=50, messages=[], tool_choice={"type": "any"}, extra_body=going_on
        )
        assert said.content[0].to_dict() == {"type": "text", "text": "You said: nothing"}
        with pytest.raises(anthropic.BadRequestError, match="there is at least one"):
            client.messages.create(model="mock", max_tokens=50, messages=[])


def test_what_an_agent_puts_beside_the_users_words_is_not_answered(url: str) -> None:
    reminder = {"type": "text", "text": "<system-reminder>get_weather is there</system-reminder>"}
    content: Any = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
        reminder,
    ]
    tools: Any = [{"name": "get_weather", "input_schema": SCHEMA}]
    call: Any = [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}]
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        said = client.messages.create(
            model="mock",
            max_tokens=50,
            tools=tools,
            messages=[
                {"role": "user", "content": ASK},
                {"role": "assistant", "content": call},
                {"role": "user", "content": content},
            ],
        )
        assert said.content[0].to_dict() == {"type": "text", "text": "The tool said: sunny"}
        words: Any = [{"role": "user", "content": [reminder, {"type": "text", "text": "Hi"}]}]
        said = client.messages.create(model="mock", max_tokens=50, tools=tools, messages=words)
        assert said.content[0].to_dict() == {"type": "text", "text": "You said: Hi"}
