"""The recorded exchanges of the Responses and Messages APIs, against a reading of them by another hand."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart

from llmproxy.reconstruct import anthropic_messages, responses
from llmproxy.reconstruct.machine import RequestReading, ResponseReading

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"

pytestmark = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of recorded exchanges is not beside the project"
)

# Echoes that are not the value of the answer, and what the client did. All others are.
CHANGED_ECHOES = {
    "d8ed5c4f58-01": "typographic quotes in search results replaced (by the recorder)",
    "0b31d7c884-01": "text added before the calls",
    "3329f3a2a4-01": "call id rewritten",
    "3329f3a2a4-02": "call id rewritten",
    "6b567046fa-01": "reasoning dropped",
    "7208d62334-01": "tool search's arguments rewritten, its result dropped",
    "9def9e43bc-01": "tool search's arguments rewritten, nulls dropped",
    "7ea51df0e5-01": "reasoning's id dropped",
    "7ea51df0e5-02": "reasoning's id dropped",
    "7ea51df0e5-03": "reasoning's id dropped",
    "ed552a54fc-01": "reasoning's id dropped",
    "ed552a54fc-02": "reasoning's id dropped",
    "ed552a54fc-03": "reasoning's id dropped",
}


@cache
def records() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((CORPUS / "exchanges").glob("*.json")):
        record = json.loads(path.read_text())
        if record["api"] in ("responses", "messages"):
            found[record["id"]] = record
    return found


@cache
def reference() -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in map(json.loads, (CORPUS / "reference.jsonl").read_text().splitlines())}


def ids() -> list[str]:
    return list(records()) if CORPUS.is_dir() else []


def events(body: str) -> Iterator[tuple[str, str]]:
    """The events of a recorded stream: these are all plain, one `data:` each."""
    for block in body.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            yield fields.get("event", ""), fields["data"]


def read_request(record: dict[str, Any]) -> RequestReading:
    body = json.loads(record["request"]["body"] or "{}")
    return responses.read_request(body) if record["api"] == "responses" else anthropic_messages.read_request(body)


def read_response(record: dict[str, Any]) -> ResponseReading:
    machine = responses.Machine() if record["api"] == "responses" else anthropic_messages.Machine()
    if not record["response"]["stream"]:
        machine.whole(json.loads(record["response"]["body"]))
        return machine.finish()
    for name, data in events(record["response"]["body"]):
        if data.strip() == "[DONE]":
            machine.done()
        else:
            machine.event(name, json.loads(data))
    return machine.finish()


def summary(messages: tuple[Message, ...]) -> tuple[str, list[str], list[tuple[str, Any, str | None]]]:
    """The text, the reasonings, and the calls that the client is to run."""
    parts = [part for message in messages for part in message.parts]
    return (
        "".join(part.text for part in parts if isinstance(part, TextPart)),
        [part.text for part in parts if isinstance(part, ReasoningPart)],
        [
            (part.name, part.arguments, part.tool_call_id)
            for part in parts
            if isinstance(part, ToolCallPart)
            and not part.server_executed
            and "type" not in (part.provider_metadata or {}).get("openai", {})
        ],
    )


def expected(line: dict[str, Any]) -> tuple[str, list[str], list[tuple[str, Any, str | None]]]:
    if line["api"] == "messages":
        blocks = line["blocks"]
        return (
            "".join(block["text"] for block in blocks if block["type"] == "text"),
            [block.get("thinking", "") for block in blocks if block["type"] in ("thinking", "redacted_thinking")],
            [(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"],
        )
    items = line["output"]
    return (
        "".join((item.get("text") or "") + (item.get("refusal") or "") for item in items if item["type"] == "message"),
        [item["reasoning_text"] or item["summary"] for item in items if item["type"] == "reasoning"],
        [
            (item["name"], json.loads(item["arguments"] or "{}"), item["call_id"])
            for item in items
            if item["type"] == "function_call"
        ],
    )


@pytest.mark.parametrize("identifier", ids())
def test_agrees_with_the_reference(identifier: str) -> None:
    record, line = records()[identifier], reference()[identifier]
    if record["response"]["status"] != 200:
        pytest.skip("an error body is read by the driver")
    reading = read_response(record)
    messages = reading.outputs[0].messages if reading.outputs else ()
    reason = reading.outputs[0].finish_reason if reading.outputs else None
    assert summary(messages) == expected(line)
    assert reading.usage.input_tokens == line["input_tokens"]
    assert reading.usage.output_tokens == line["output_tokens"]
    assert (reading.resolved_model, reading.response_id) == (line["model"], line["response_id"])
    assert bool(reading.error) == bool(line["error"])
    assert reading.finished
    if not reading.error:  # a call that failed has no output to finish
        assert reason == line.get("stop_reason", line.get("response_status"))
    assert reading.notes == ()


@pytest.mark.parametrize("identifier", ids())
def test_every_request_is_understood(identifier: str) -> None:
    assert read_request(records()[identifier]).notes == ()


@pytest.mark.parametrize("identifier", ids())
def test_an_echo_is_the_answers_value(identifier: str) -> None:
    record = records()[identifier]
    earlier = records().get((record["continues"] or {}).get("of", ""))
    if earlier is None:
        pytest.skip("continues nothing")
    answer = read_response(earlier).outputs[0].messages[-1]
    assert (answer in read_request(record).input) == (identifier not in CHANGED_ECHOES)
