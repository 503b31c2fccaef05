"""All recorded exchanges, against a reading of them by another hand."""

import json
from typing import Any

import pytest
from llm.parts import Part, ReasoningPart, TextPart, ToolCallPart

from llmproxy.reconstruct import Turn
from tests.reconstruct.records import CORPUS, Record, corpus, reference, turn_of

pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of recorded exchanges is not beside the project"
)

IDS = sorted(corpus())
CHOICES = ("chat.completions", "completions")

# Where the reference is not what we read, and why we read it otherwise. All others agree.
OTHERWISE: dict[tuple[str, str], str] = {
    ("52013a82fb-00", "text"): "the reference puts a delta that is a string before one that is a list",
    ("14dc5a174f-00", "text"): "a refusal is what the model said",
    ("c69053bed9-00", "text"): "a refusal is what the model said",
    ("d3ac89312a-00", "text"): "a refusal is what the model said",
    ("bcf554dc5b-00", "text"): "the transcript is what the model said",
    ("ef63f65e95-00", "text"): "the transcript is what the model said",
    ("9d93641b2c-00", "calls"): "a function_call is a call",
    ("b8d3f43b68-00", "calls"): "a function_call is a call",
    ("fd004996c0-00", "calls"): "a function_call is a call",
    ("47d5184c11-00", "finish"): "tool_calls, then stop: the calls count",
    ("b816058804-00", "reasoning"): "reasoning_details alone carry it",
    ("3e307cbfef-00", "reasoning"): "reasoning_details alone carry it",
    ("276746fd32-00", "error"): "the error is a field that the standard for events does not know",
    ("6472a00697-00", "error"): "the body is HTML",
    ("f261ed294d-00", "id"): "the id of an error is none of a response",
}

# Streams that did not reach their own end, though HTTP's was reached.
UNFINISHED = {
    "276746fd32-00": "an error",
    "c6bef8c8ad-00": "an error",
    "4aa3fe488b-00": "an error",
    "d8d1d62952-00": "Writer's completions say nothing at their end",
}

# Chat answers whose echo is another value, and what the client did. All others are equal.
CHANGED_ECHOES = {
    "28465f82c2-01": "reasoning sent back in another field",
    "ade0fc0766-01": "reasoning sent back in another field",
    "ade0fc0766-02": "reasoning sent back in another field",
    "ade0fc0766-03": "reasoning sent back in another field",
    "f9a4873269-01": "reasoning sent back in another field",
    "3fb2da86f7-01": "reasoning sent back in its details alone",
    "abc80360ab-01": "reasoning sent back in its details alone, its text dropped",
    "5caa1ad50d-01": "reasoning's details dropped, text changed",
    "c6bef8c8ad-01": "a failed generation sent back as a call, reasoning as text",
    "c6bef8c8ad-02": "reasoning sent back as text",
    "dae5cc1b05-01": "an id invented for a call that had none",
}


def summary(turn: Turn, position: int) -> dict[str, Any]:
    parts: list[Part] = [part for message in turn.outputs[position].messages for part in message.parts]
    return {
        "text": "".join(part.text for part in parts if isinstance(part, TextPart)),
        "reasoning": "".join(part.text for part in parts if isinstance(part, ReasoningPart)),
        "calls": [
            (p.name, p.tool_call_id, p.arguments)
            for p in parts
            if isinstance(p, ToolCallPart) and not p.server_executed
        ],
        "finish": turn.outputs[position].finish_reason,
    }


def expected(choice: Record) -> dict[str, Any]:
    return {
        "text": choice.get("text") or "",
        "reasoning": choice.get("reasoning") or "",
        "calls": [
            (call["name"], call["id"] or None, arguments_of(call["arguments"]))
            for call in choice.get("tool_calls") or []
        ],
        "finish": choice["finish_reason"],
    }


def arguments_of(text: str | None) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}  # text that was cut


def message_of(error: Any) -> str | None:
    return str(error["message"]) if isinstance(error, dict) else error and str(error)


@pytest.mark.parametrize("identifier", IDS)
def test_every_record_agrees_with_the_reference(identifier: str) -> None:
    record, line = corpus()[identifier], reference()[identifier]
    turn = turn_of(record)
    assert turn.notes == ()
    assert turn.finished == (identifier not in UNFINISHED)
    assert turn.stream == bool(record["response"]["stream"] and record["response"]["status"] == 200)
    pairs: dict[str, tuple[Any, Any]] = {}
    if "model" in line:
        pairs["usage"] = (
            (turn.usage.input_tokens, turn.usage.output_tokens),
            (line["input_tokens"], line["output_tokens"]),
        )
        pairs["id"] = (turn.response_id, line["response_id"] or None)
        pairs["model"] = (turn.resolved_model, line["model"])
        pairs["error"] = (turn.error, message_of(line["error"]))
    if record["api"] in CHOICES and identifier != "d8d1d62952-00":  # where the reference found nothing
        assert [output.index for output in turn.outputs] == [choice["index"] for choice in line["choices"]]
        for position, choice in enumerate(line["choices"]):
            ours, theirs = summary(turn, position), expected(choice)
            pairs.update({what: (ours[what], theirs[what]) for what in ours if ours[what] != theirs[what]})
    differing = {(identifier, what) for what, (ours, theirs) in pairs.items() if ours != theirs}
    assert differing == {key for key in OTHERWISE if key[0] == identifier}, pairs


def earlier(record: Record) -> Record | None:
    return corpus().get((record["continues"] or {}).get("of", ""))


@pytest.mark.parametrize("identifier", [i for i in IDS if corpus()[i]["api"] in CHOICES and earlier(corpus()[i])])
def test_an_echo_is_the_answers_value(identifier: str) -> None:
    record = corpus()[identifier]
    continued = earlier(record)
    assert continued is not None
    answer = turn_of(continued).outputs[0].messages[-1]
    assert (answer in turn_of(record).input) == (identifier not in CHANGED_ECHOES)


@pytest.mark.parametrize("identifier", [identifier for identifier in IDS if "wire_chunk_bytes" in corpus()[identifier]])
def test_the_recorded_network_pieces_give_the_same_turn(identifier: str) -> None:
    record = corpus()[identifier]
    ends, end = [], 0
    for size in record["wire_chunk_bytes"] or ():
        end += size
        ends.append(end)
    assert turn_of(record, ends=ends) == turn_of(record)


@pytest.mark.parametrize(
    "identifier", [i for i in IDS if corpus()[i]["api"] in CHOICES and corpus()[i]["response"]["stream"]]
)
def test_an_assembled_stream_reads_as_it_would_have_come_unstreamed(identifier: str) -> None:
    record = corpus()[identifier]
    streamed = turn_of(record)
    body = json.dumps(streamed.response_json)
    response = {**record["response"], "body": body, "headers": {"content-type": "application/json"}}
    whole = turn_of({**record, "response": response})
    assert whole.response_json == streamed.response_json
    assert (whole.usage, whole.response_id, whole.resolved_model) == (
        streamed.usage,
        streamed.response_id,
        streamed.resolved_model,
    )
    for position in range(len(streamed.outputs)):
        assert summary(whole, position) == summary(streamed, position)
