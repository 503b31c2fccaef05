from typing import Any

import pytest
from llm import Tool
from llm.parts import Message, TextPart

from llmproxy.reconstruct.responses import Machine
from llmproxy.reconstruct.retrieval import is_retrieval, retrieved
from llmproxy.reconstruct.turn import Turn

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "background": True,
    "status": "completed",
    "model": "m-1",
    "instructions": "be short",
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    "temperature": 1.0,
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "42"}]}],
}


def read(response: Any) -> Turn | None:
    machine = Machine()
    machine.whole(response)
    reading = machine.finish()
    turn = Turn("responses", None, (), reading.outputs, response_id=reading.response_id, response_json=response)
    return retrieved(turn)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/responses/resp_1", True),
        ("GET", "/up/openai/v1/responses/resp_1/?stream=true", True),
        ("POST", "/v1/responses/resp_1", False),
        ("GET", "/v1/responses", False),
        ("GET", "/v1/responses/resp_1/input_items", False),
        ("GET", "/v1/models", False),
    ],
)
def test_what_asks_for_a_response(method: str, path: str, expected: bool) -> None:
    assert is_retrieval(method, path) == expected


def test_the_answer_points_at_its_question() -> None:
    turn = read(RESPONSE)
    assert turn is not None
    assert (turn.previous_response_id, turn.response_id, turn.model) == ("resp_1", "resp_1", "m-1")
    assert (turn.input, turn.instructions) == ((Message("system", [TextPart("be short")]),), 1)
    assert (turn.tools, turn.schema, turn.options) == ((Tool("f"),), {"type": "object"}, {})
    assert turn.outputs[0].messages == (Message("assistant", [TextPart("42")]),)


@pytest.mark.parametrize(
    "change",
    [
        {"background": False},
        {"background": None},
        {"status": "queued", "output": []},
        {"status": "in_progress"},
        {"status": "cancelled", "output": []},
        {"id": None},
    ],
)
def test_what_is_no_answer_that_was_waited_for(change: dict[str, Any]) -> None:
    assert read({**RESPONSE, **change}) is None
