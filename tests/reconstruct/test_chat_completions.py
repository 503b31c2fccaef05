import base64
from typing import Any

import pytest
from llm import Attachment
from llm.parts import AttachmentPart, Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.chat_completions import Machine
from llmproxy.reconstruct.machine import RequestReading, ResponseReading
from llmproxy.reconstruct.turn import Output, Usage


def chunk(delta: Any = None, *, index: int = 0, finish: str | None = None, **top: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}], **top}


def read(*chunks: Any) -> ResponseReading:
    machine = Machine()
    for data in chunks:
        machine.event("", data)
    return machine.finish()


def parts(*deltas: Any) -> list[Part]:
    reading = read(*map(chunk, deltas))
    return [part for output in reading.outputs for message in output.messages for part in message.parts]


def call(arguments: str | None = None, name: str | None = None, **rest: Any) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}, **rest}]}


def reasoning(text: str, field: str, **rest: Any) -> ReasoningPart:
    return ReasoningPart(text, provider_metadata={"openai": {"field": field, **rest}})


DELTAS: dict[str, tuple[list[Any], list[Part]]] = {
    "text is joined exactly": ([{"content": " a\n"}, {"content": ""}, {"content": " b "}], [TextPart(" a\n b ")]),
    "null says nothing": ([{"role": "assistant", "content": None}, {"tool_calls": None}, None], []),
    "role is not joined": ([{"role": "assistant", "content": "a"}, {"role": "assistant"}], [TextPart("a")]),
    "reasoning comes first": (
        [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "c"}],
        [reasoning("ab", "reasoning_content"), TextPart("c")],
    ),
    "reasoning that came later": ([{"content": "c"}, {"reasoning": "a"}], [TextPart("c"), reasoning("a", "reasoning")]),
    "reasoning twice is once": (
        [{"reasoning": "a", "reasoning_content": "a"}, {"reasoning": "b", "reasoning_content": "b"}],
        [reasoning("ab", "reasoning_content")],
    ),
    "reasoning with details": (
        [
            {"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]},
            {"reasoning": "b", "reasoning_details": [{"type": "reasoning.text", "text": "b", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "e", "index": 1}]},
        ],
        [
            reasoning(
                "ab",
                "reasoning",
                reasoning_details=[
                    {"type": "reasoning.text", "text": "ab", "index": 0, "signature": "s"},
                    {"type": "reasoning.encrypted", "data": "e", "index": 1},
                ],
            )
        ],
    ),
    "details alone are the reasoning": (
        [
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]},
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "b"}]},
        ],
        [
            ReasoningPart(
                "ab",
                provider_metadata={"openai": {"reasoning_details": [{"type": "reasoning.summary", "summary": "ab"}]}},
            )
        ],
    ),
    "encrypted details alone": (
        [{"reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]}],
        [
            ReasoningPart(
                redacted=True,
                provider_metadata={"openai": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "e"}]}},
            )
        ],
    ),
    "content as a list (Mistral)": (
        [
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]},
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "b"}], "closed": True},
                    {"type": "text", "text": "c"},
                ]
            },
            {"content": "d"},
        ],
        [ReasoningPart("ab", provider_metadata={"openai": {"type": "thinking"}}), TextPart("cd")],
    ),
    "content as a list (Databricks)": (
        [
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a", "signature": ""}]}]},
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "b"}]}]},
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "s"}]}]},
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "c"}]}]},
            {"content": "d"},
        ],
        [
            ReasoningPart("ab", provider_metadata={"openai": {"type": "reasoning", "signature": "s"}}),
            ReasoningPart("c", provider_metadata={"openai": {"type": "reasoning"}}),
            TextPart("d"),
        ],
    ),
    "thinking that is no list (TrueFoundry)": (
        [
            {"content": [{"type": "thinking", "thinking": "a"}]},
            {"content": [{"type": "thinking", "thinking": "b", "signature": "s"}, {"type": "text", "text": "c"}]},
        ],
        [
            ReasoningPart("ab", provider_metadata={"openai": {"type": "thinking", "signature": "s"}}),
            TextPart("c"),
        ],
    ),
    "a reference within the content (Mistral)": (
        [
            {"content": "a"},
            {"content": [{"type": "reference", "reference_ids": [1]}]},
            {"content": [{"type": "text", "text": "b"}]},
        ],
        [
            TextPart("a"),
            AttachmentPart(None, {"openai": {"type": "reference", "reference_ids": [1]}}),
            TextPart("b"),
        ],
    ),
    "reasoning_text (GitHub Copilot)": (
        [{"content": "", "reasoning_text": "a"}, {"reasoning_text": "b"}, {"reasoning_opaque": "e"}, {"content": "c"}],
        [reasoning("ab", "reasoning_text"), TextPart("c")],
    ),
    "reasoning in an object (Envoy's gateway)": (
        [{"reasoning_content": {"text": "a"}}, {"reasoning_content": {"text": "b"}}, {"content": "c"}],
        [reasoning("ab", "reasoning_content"), TextPart("c")],
    ),
    "tools that the provider ran (Groq)": (
        [
            {"reasoning": "r"},
            {"executed_tools": [{"index": 0, "type": "search", "arguments": '{"q": 1}', "search_results": {}}]},
            {"executed_tools": [{"index": 0, "type": "search", "arguments": '{"q": 1}', "output": "o"}]},
            {"executed_tools": [{"index": 1, "type": "mcp", "name": "f", "search_results": {"results": [2]}}]},
            {"content": "a"},
        ],
        [
            reasoning("r", "reasoning"),
            ToolCallPart("search", {"q": 1}, None, True, {"openai": {"type": "executed_tool"}}),
            ToolResultPart("search", "o", server_executed=True),
            ToolCallPart("f", {}, None, True, {"openai": {"type": "executed_tool", "tool": "mcp"}}),
            ToolResultPart("f", '{"search_results": {"results": [2]}}', server_executed=True),
            TextPart("a"),
        ],
    ),
    "an object for the content (Cloudflare)": (
        [{"role": "assistant", "content": {"title": "Äpfel", "n": 1}}],
        [TextPart('{"title": "Äpfel", "n": 1}')],
    ),
    "think tags are text": ([{"content": "<think>a"}, {"content": "</think>b"}], [TextPart("<think>a</think>b")]),
    "refusal": ([{"refusal": "n"}, {"refusal": "o"}], [TextPart("no", {"openai": {"refusal": True}})]),
    "calls by index": (
        [
            call("", "f", index=0, id="a", type="function"),
            call('{"x"', index=0),
            call("{}", "g", index=1, id="b"),
            call(": 1}", index=0),
        ],
        [ToolCallPart("f", {"x": 1}, "a"), ToolCallPart("g", {}, "b")],
    ),
    "an empty id does not overwrite": (
        [
            call("{", "f", index=0, id="a"),
            call('"x": 1', index=0, id=""),
            call("}", index=0, id=None),
            call(None, index=0, id=""),
        ],
        [ToolCallPart("f", {"x": 1}, "a")],
    ),
    "an id that repeats": (
        [call("{", "f", index=0, id="a"), call("}", "f", index=0, id="a")],
        [ToolCallPart("f", {}, "a")],
    ),
    "the same index with another id": (
        [call("{}", "f", index=0, id="a"), call("{}", "g", index=0, id="b")],
        [ToolCallPart("f", {}, "a"), ToolCallPart("g", {}, "b")],
    ),
    "the same index without ids (Gemini)": (
        [call("{}", "f", index=0, id=""), call("{}", "f", index=0, id="")],
        [ToolCallPart("f"), ToolCallPart("f")],
    ),
    "no index": (
        [call("{", "f", id="a"), call("}"), call("{}", "g", id="b")],
        [ToolCallPart("f", {}, "a"), ToolCallPart("g", {}, "b")],
    ),
    "no index, but the id goes on": (
        [call("{", "f", id="a"), call("{}", "g", id="b"), call("}", id="a")],
        [ToolCallPart("f", {}, "a"), ToolCallPart("g", {}, "b")],
    ),
    "no index and no id": ([call("{}", "f"), call("{}", "g")], [ToolCallPart("f"), ToolCallPart("g")]),
    "no index and no id, and no arguments": (
        [{"tool_calls": [{"function": {"name": name, "arguments": ""}} for name in "fg"]}],
        [ToolCallPart("f"), ToolCallPart("g")],
    ),
    "no index, and an id after the name": ([call("{", "f"), call("}", id="a")], [ToolCallPart("f", {}, "a")]),
    "a name that repeats": (
        [call("{", "f", index=0, id="a"), call('"x":', "f", index=0), call("1}", "f", index=0)],
        [ToolCallPart("f", {"x": 1}, "a")],
    ),
    "calls as an object (TGI)": (
        [
            {"tool_calls": {"index": 0, "id": "", "function": {"name": "f", "arguments": "{"}}},
            {"tool_calls": {"index": 0, "id": "", "function": {"name": None, "arguments": "}"}}},
        ],
        [ToolCallPart("f")],
    ),
    "content as an object": ([{"content": {"type": "text", "text": "a"}}, {"content": "b"}], [TextPart("ab")]),
    "index -1": ([call("{", "f", index=-1, id="a"), call("}", index=-1)], [ToolCallPart("f", {}, "a")]),
    "first index 1": ([call("{", "f", index=1, id="a"), call("}", index=1)], [ToolCallPart("f", {}, "a")]),
    "arguments that were cut": (
        [call('{"x": ', "f", index=0, id="a")],
        [ToolCallPart("f", {}, "a", provider_metadata={"llmproxy": {"arguments": '{"x": '}})],
    ),
    "arguments as an object": (
        [{"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}, "id": "a"}]}],
        [ToolCallPart("f", {"x": 1}, "a")],
    ),
    "a signature on the call": (
        [call("{}", "f", index=0, id="a", extra_content={"google": {"thought_signature": "s"}})],
        [
            ToolCallPart(
                "f", {}, "a", provider_metadata={"openai": {"extra_content": {"google": {"thought_signature": "s"}}}}
            )
        ],
    ),
    "a custom tool": (
        [
            {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
            {"tool_calls": [{"index": 0, "custom": {"input": "y"}}]},
        ],
        [ToolCallPart("f", {"input": "xy"}, "a", provider_metadata={"openai": {"type": "custom_tool_call"}})],
    ),
    "a function call": (
        [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}],
        [ToolCallPart("f", {}, None, provider_metadata={"openai": {"type": "function_call"}})],
    ),
    "text after the calls": (
        [call("{}", "f", index=0, id="a"), {"content": "t"}],
        [ToolCallPart("f", {}, "a"), TextPart("t")],
    ),
    "an image": (
        [{"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
        [AttachmentPart(Attachment(type="image/png", content=b"\0\0\0"))],
    ),
}


@pytest.mark.parametrize("name", DELTAS)
def test_deltas(name: str) -> None:
    deltas, expected = DELTAS[name]
    assert parts(*deltas) == expected


@pytest.mark.parametrize("name", DELTAS)
def test_the_assembled_body_reads_as_an_unstreamed_one(name: str) -> None:
    """The same parts, if perhaps in another order: an unstreamed body does not tell it."""
    streamed = read(*map(chunk, DELTAS[name][0]))
    machine = Machine()
    machine.whole(streamed.response_json)
    whole = machine.finish()

    def sorted_parts(reading: ResponseReading) -> list[str]:
        return sorted(str(part) for output in reading.outputs for m in output.messages for part in m.parts)

    assert sorted_parts(whole) == sorted_parts(streamed)
    assert whole.response_json == streamed.response_json


def test_speech() -> None:
    machine = Machine(RequestReading("m", (), options={"audio": {"format": "mp3"}}))
    for piece in (b"ab", b"cd"):
        audio = {"id": "a", "data": base64.b64encode(piece).decode(), "transcript": piece.decode(), "expires_at": 7}
        assert machine.event("", chunk({"audio": audio}))
    reading = machine.finish()
    attachment = Attachment(type="audio/mpeg", content=b"abcd")
    assert reading.outputs[0].messages == (
        Message("assistant", [TextPart("abcd"), AttachmentPart(attachment, {"openai": {"audio_id": "a"}})]),
    )


def test_thinking_blocks_are_put_together() -> None:
    """LiteLLM sends them beside the reasoning, and needs them back with their signatures."""
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": None},
        {"type": "thinking", "thinking": "b", "signature": ""},
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "redacted_thinking", "data": "e"},
        {"type": "thinking", "thinking": "c"},
    ]
    deltas = [{"reasoning_content": block.get("thinking"), "thinking_blocks": [block]} for block in blocks]
    reading = read(*map(chunk, deltas), chunk({"content": "d"}))
    (message,) = reading.outputs[0].messages
    assert message.parts == [reasoning("abc", "reasoning_content"), TextPart("d")]
    assert message.provider_metadata == {
        "openai": {
            "thinking_blocks": [
                {"type": "thinking", "signature": "s", "thinking": "ab"},
                {"type": "redacted_thinking", "data": "e"},
                {"type": "thinking", "thinking": "c"},
            ]
        }
    }


@pytest.mark.parametrize("steps", [[[1], [2], [3]], [[1], [1, 2], [1, 2, 3]], [[1, 2], [3]]])
def test_a_list_that_is_not_known_comes_piece_by_piece_or_grows(steps: list[list[int]]) -> None:
    reading = read(*(chunk({"content": "a", "reasoning_steps": step}) for step in steps))
    (message,) = reading.outputs[0].messages
    assert message.provider_metadata == {"openai": {"reasoning_steps": [1, 2, 3]}}


def test_choices_interleave() -> None:
    reading = read(
        chunk({"content": "a"}, index=1),
        chunk({"content": "b"}, index=0),
        chunk({"content": "c"}, index=1, finish="length"),
        chunk(index=0, finish="stop"),
    )
    assert reading.outputs == (
        Output(0, (Message("assistant", [TextPart("b")]),), "stop"),
        Output(1, (Message("assistant", [TextPart("ac")]),), "length"),
    )
    assert reading.finished


def test_the_first_id_and_model_that_say_something() -> None:
    reading = read(
        {"id": "", "model": "", "choices": [], "prompt_filter_results": [{"x": 1}]},
        chunk({"content": "a"}, id="1", model="m", obfuscation="xyz", system_fingerprint="f", service_tier=None),
        chunk({"content": "b"}, id="2", model="n", system_fingerprint="g", object="chat.completion.chunk"),
    )
    assert (reading.response_id, reading.resolved_model, reading.finished) == ("1", "m", False)
    assert reading.response_json == {
        "object": "chat.completion",
        "id": "1",
        "model": "m",
        "prompt_filter_results": [{"x": 1}],
        "system_fingerprint": "g",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": None}],
    }


def test_what_is_beside_the_choices_is_as_it_came_last() -> None:
    tiers = ("a", "a", "b", "a")
    reading = read(*(chunk({"content": "x"}, service_tier=tier, obfuscation=str(at)) for at, tier in enumerate(tiers)))
    assert reading.response_json["service_tier"] == "a"
    assert reading.response_json["choices"][0]["message"]["content"] == "xxxx"
    assert "obfuscation" not in reading.response_json


def test_an_id_that_comes_late() -> None:
    assert read(*(chunk({"content": "x"}, id=identifier) for identifier in ("", "", "1"))).response_id == "1"


def test_an_event_may_be_an_error_by_its_name_alone() -> None:
    machine = Machine()
    said = {"code": 7, "choices": []}
    machine.event("", said)
    assert machine.finish().error is None
    machine.event("error", said)
    assert machine.finish().error == '{"code": 7, "choices": []}'


def test_the_same_object_with_and_without_choices() -> None:
    machine = Machine()
    machine.event("", {"detail": "m", "choices": []})
    assert machine.finish().error is None
    machine.event("", {"detail": "m"})
    assert machine.finish().error == "m"


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [
        ((None, "stop"), "stop"),
        (("stop", None, "stop"), "stop"),
        (("stop", "length"), "stop"),
        (("tool_calls", "stop"), "tool_calls"),
        (("stop", "tool_calls"), "tool_calls"),
        (("", "stop"), "stop"),
        (("",), ""),
        ((None,), None),
    ],
)
def test_finish_reasons(reasons: tuple[str | None, ...], finish: str | None) -> None:
    reading = read(*(chunk(finish=reason) for reason in reasons))
    assert reading.outputs == (Output(0, (), finish),)
    assert reading.finished == (finish is not None)


def test_deltas_after_the_finish_are_read() -> None:
    assert read(chunk({"content": "a"}, finish="stop"), chunk({"content": "b"})).outputs[0].messages == (
        Message("assistant", [TextPart("ab")]),
    )


def test_only_the_delta_is_read() -> None:
    """Together repeats it as `text`, Perplexity the message so far as `message`."""
    choice = {"delta": {"content": "a"}, "text": "a", "message": {"content": "a"}}
    later = {"delta": {"content": "b"}, "text": "b", "message": {"content": "ab"}}
    reading = read({"choices": [choice]}, {"choices": [later]})
    assert reading.outputs[0].messages == (Message("assistant", [TextPart("ab")]),)
    assert set(reading.response_json["choices"][0]) == {"index", "message", "finish_reason"}


def test_a_stream_of_one_whole_event() -> None:
    reading = read({"choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]})
    assert reading.outputs == (Output(0, (Message("assistant", [TextPart("a")]),), "stop"),)


def test_usage_is_never_summed() -> None:
    first, last = ({"prompt_tokens": 5, "completion_tokens": tokens} for tokens in (1, 2))
    reading = read(chunk({"content": "a"}, usage=first), chunk(usage=last), chunk(usage=None))
    assert reading.usage == Usage(5, 2)


def test_usage_of_groq_and_timings_of_llama_cpp() -> None:
    reading = read(
        chunk(finish="stop", x_groq={"usage": {"prompt_tokens": 1, "completion_tokens": 2, "queue_time": 3}})
    )
    assert reading.usage == Usage(1, 2, {"queue_time": 3})
    later = chunk({}, x_groq={"id": "r", "seed": 1})
    assert read(chunk(finish="stop", x_groq={"usage": {"prompt_tokens": 1}}), later).usage == Usage(1)
    reading = read(chunk(finish="stop", timings={"predicted_n": 3, "cache_n": 0}))
    assert reading.usage == Usage(details={"timings": {"predicted_n": 3}})


def test_usage_in_the_choice_that_finishes() -> None:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    streamed = read(chunk({"content": "a"}), {"choices": [choice]})
    machine = Machine()
    machine.whole(streamed.response_json)
    assert streamed.usage == machine.finish().usage == Usage(1, 2)


def test_logprobs_are_extended() -> None:
    chunks = [chunk({"content": text}) for text in "ab"]
    for number, each in enumerate(chunks):
        each["choices"][0]["logprobs"] = {"content": [{"token": number}], "refusal": None}
    choice = read(*chunks).response_json["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": 0}, {"token": 1}], "refusal": None}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("", {"error": {"message": "m", "code": 7}}, "m"),
        ("error", {"error": {"message": "m"}}, "m"),
        ("error", {"message": "m"}, "m"),
        ("error", {"detail": "m", "error": {"message": "m"}}, "m"),
        ("", {"error": "m"}, "m"),
        ("", {"detail": "m"}, "m"),
        ("", {"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "m"),
        ("", {"message": "m", "type": "x", "param": "y", "code": "z"}, "m"),
        ("", {"code": "invalid", "error": "m"}, "m"),
        ("", {"choices": [{"delta": {"content": ""}, "error": {"code": 502, "message": "m"}}]}, "m"),
    ],
)
def test_an_error_in_the_stream_keeps_what_came(name: str, data: Any, message: str) -> None:
    machine = Machine()
    machine.event("", chunk({"content": "a"}))
    assert not machine.event(name, data)
    machine.event("", chunk({"content": "b"}))
    reading = machine.finish()
    assert (reading.error, reading.finished) == (message, False)
    assert reading.outputs[0].messages == (Message("assistant", [TextPart("ab")]),)


@pytest.mark.parametrize(
    "body", [{"error": {"message": "m", "code": 502}}, {"object": "error", "message": "m"}, {"detail": "m"}]
)
def test_an_error_with_status_200(body: dict[str, Any]) -> None:
    machine = Machine()
    machine.whole(body)
    reading = machine.finish()
    assert (reading.error, reading.outputs, reading.finished, reading.notes) == ("m", (), True, ())


def test_an_error_in_a_choice_keeps_what_it_said() -> None:
    machine = Machine()
    machine.whole({"choices": [{"message": {"content": "a"}, "error": {"message": "m"}, "finish_reason": "error"}]})
    reading = machine.finish()
    assert (reading.error, reading.outputs[0].messages) == ("m", (Message("assistant", [TextPart("a")]),))


@pytest.mark.parametrize("data", [None, [], 7, {}, {"choices": 7}, {"choices": [7]}, {"choices": [{"delta": 7}]}])
def test_odd_events_carry_nothing(data: Any) -> None:
    assert not Machine().event("", data)


def test_an_unknown_event_is_noted() -> None:
    machine = Machine()
    machine.event("latency", {"checkpoint": 1})
    assert machine.finish().notes == ("unknown event: latency",)


@pytest.mark.parametrize(
    ("delta", "carried"),
    [
        ({"role": "assistant", "content": ""}, False),
        ({"content": "a"}, True),
        ({"reasoning": "a"}, True),
        (call("", "f", index=0), True),
        (call("{", index=0), True),
        (call("", index=0, id="a"), False),
        ({"annotations": [{"x": 1}]}, False),
        ({"provider_metadata": {"x": 1}}, False),
    ],
)
def test_what_counts_as_output(delta: Any, carried: bool) -> None:
    assert Machine().event("", chunk(delta)) is carried


def test_a_whole_body() -> None:
    body = {
        "id": "1",
        "model": "m",
        "choices": [
            {"index": 1, "message": {"content": None, "refusal": "no"}, "finish_reason": "stop"},
            {"message": {"content": [{"type": "text", "text": "a"}], "annotations": [1]}, "finish_reason": 7},
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    machine = Machine()
    machine.whole(body)
    assert machine.finish() == ResponseReading(
        outputs=(
            Output(1, (Message("assistant", [TextPart("no", {"openai": {"refusal": True}})]),), "stop"),
            Output(1, (Message("assistant", [TextPart("a")]),), None),
        ),
        resolved_model="m",
        usage=Usage(1, 2),
        response_json=body,
        response_id="1",
        finished=True,
    )
