"""The test suite of a small program that uses `openai`, as somebody who uses llmproxy would write it.

It runs here from its cassette. `tests/test_testing.py` copies it elsewhere, records it anew, and runs it again with the
provider gone. To record: pytest --llmproxy-record tests/replayed, with OPENAI_BASE_URL at a `llmproxy mock`.
"""

import asyncio
import json

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

pytestmark = pytest.mark.usefixtures("llmproxy_replay")

MODEL = "mock"
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def weather_report(city: str) -> str:
    """The program: asks the model, runs the tool that it calls, and gives what the model makes of it."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"How is the weather in {city}?"}]
    with openai.OpenAI(max_retries=0) as client:
        first = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], tool_choice="required")
        answer = first.choices[0].message
        assert answer.tool_calls
        messages.append({"role": "assistant", "tool_calls": [call.to_dict() for call in answer.tool_calls]})  # type: ignore[misc]
        for call in answer.tool_calls:
            assert call.type == "function"
            asked = json.loads(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"rain in {asked['city']}"})
        return (
            client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0].message.content
            or ""
        )


def test_the_model_asks_for_the_weather_and_tells_it() -> None:
    assert "rain" in weather_report("Ulm")


def test_a_stream_arrives_in_pieces_with_its_usage() -> None:
    with openai.OpenAI(max_retries=0) as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count to three, slowly"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in said if piece]) > 3
    assert "Count to three" in "".join(said)
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_several_at_once() -> None:
    async def ask(client: openai.AsyncOpenAI, text: str) -> str | None:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(max_retries=0) as client:
            return await asyncio.gather(*(ask(client, f"number {number}") for number in range(8)))

    for number, answer in enumerate(asyncio.run(ask_all())):
        assert answer is not None and f"number {number}" in answer


def test_what_is_no_chat_is_known_too() -> None:
    with openai.OpenAI(max_retries=0) as client:
        assert MODEL in [model.id for model in client.models.list()]
        vectors = client.embeddings.create(model=MODEL, input=["a", "b"]).data
        assert len(vectors) == 2 and vectors[0].embedding != vectors[1].embedding


def test_a_refusal_by_the_provider_is_an_error_again() -> None:
    with openai.OpenAI(max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="The request asked for this error"):
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "no"}],
                extra_body={"mock": {"status": 400}},
            )
