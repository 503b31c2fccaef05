"""Items that a request names in place of sending them: they stand for what was said, and name the parent."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from llm.logs import LogStore
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.reconstruct.items import read_items
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.items import answered_items, last_reference
from tests.inprocess.test_replay import captured, replayed, rows
from tests.store.conversations import Recordings

RANDOM = (f"{number}f3a9c1d57b2e8064" for number in itertools.count(10))
CALL = "call_nKXhxyPVx2s2gkNl"


def reference(id: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": id}


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": f"msg_{next(RANDOM)}", "role": "assistant", "content": content}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": f"rs_{next(RANDOM)}", "summary": [{"type": "summary_text", "text": text}]}


def called(call_id: str = CALL) -> dict[str, Any]:
    id = f"fc_{next(RANDOM)}"
    return {"type": "function_call", "id": id, "call_id": call_id, "name": "f", "arguments": '{"x": 1}'}


def asked(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def resulted(output: str, call_id: str = CALL) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


class Responses(Recordings):
    """Exchanges of the Responses API, made of items."""

    def responded(self, input: list[dict[str, Any]], *output: dict[str, Any], **fields: Any) -> str:
        (answer,) = read_items(output, Notes(), default_role="assistant")
        messages = read_items(input, Notes(), default_role="user")
        response = {"object": "response", "output": list(output)}
        return self.exchange(messages, answer, api="responses", response_json=response, **fields)

    def parents(self) -> dict[str, str | None]:
        return dict(self.db.execute("select turn_id, parent_turn_id from llmproxy_turns").fetchall())

    def shown(self, thread: str) -> list[Message]:
        return LogStore(self.db).thread_messages(thread)


def referenced(messages: list[Message]) -> list[str]:
    """The ids of the references that are left in messages."""
    return [
        part.provider_metadata["openai"]["id"]
        for message in messages
        for part in message.parts
        if isinstance(part, AttachmentPart) and part.provider_metadata
    ]


def test_a_conversation_by_references_is_one_thread_and_each_input_is_whole() -> None:
    recordings = Responses()
    think, call, answer = thought("hm"), called(), said("a")
    begun = [asked("q")]
    first = recordings.responded(begun, think, call)
    went_on = [*begun, reference(think["id"]), reference(call["id"]), resulted("r")]
    second = recordings.responded(went_on, answer)
    third = recordings.responded([*went_on, reference(answer["id"]), asked("q2")], said("a2"))
    recordings.write()
    assert set(recordings.threads().values()) == {first}
    assert recordings.parents() == {first: None, second: first, third: second}
    messages = recordings.shown(first)
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [type(part) for part in messages[1].parts] == [ReasoningPart, ToolCallPart]
    (given,) = messages[2].parts
    # A result alone does not name its tool.
    assert isinstance(given, ToolResultPart) and (given.name, given.output) == ("f", "r")
    # What is referenced is the message that is stored already.
    assert recordings.db["messages"].count == 6
    assert LogStore(recordings.db).verify() == []


def test_equal_conversations_are_told_apart_by_the_items() -> None:
    recordings = Responses()
    one, two = said("yes"), said("yes")
    first = recordings.responded([asked("q")], one)
    second = recordings.responded([asked("q")], two)
    after_one = recordings.responded([asked("q"), reference(one["id"]), asked("go")], said("1"))
    after_two = recordings.responded([asked("q"), reference(two["id"]), asked("go")], said("2"))
    recordings.write()
    assert recordings.parents() == {first: None, second: None, after_one: first, after_two: second}


def test_a_request_from_the_middle_is_a_fork() -> None:
    recordings = Responses()
    answer = said("a")
    begun = [asked("q"), reference(answer["id"])]
    first = recordings.responded([asked("q")], answer)
    second = recordings.responded([*begun, asked("q2")], said("a2"))
    fork = recordings.responded([*begun, asked("another")], said("a3"))
    recordings.write()
    assert recordings.threads() == {first: first, second: first, fork: fork}
    assert recordings.forks()[fork] == first
    assert recordings.tips()[fork] == ["q", "a", "another", "a3"]


def test_what_is_sent_in_full_after_a_reference_names_the_parent() -> None:
    """The AI SDK 6 sends calls in full, and references for the rest."""
    recordings = Responses()
    answer, call = said("a"), called()
    begun = [asked("q"), reference(answer["id"]), asked("q2")]
    first = recordings.responded([asked("q")], answer)
    second = recordings.responded(begun, call)
    third = recordings.responded([*begun, {**call, "id": None}, resulted("r")], said("a3"))
    recordings.write()
    assert recordings.parents() == {first: None, second: first, third: second}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_threads_are_the_same_in_whichever_order_turns_come(order: tuple[int, ...]) -> None:
    recordings = Responses()
    one, two = said("a"), said("a2")
    first = recordings.responded([asked("q")], one)
    second = recordings.responded([asked("q"), reference(one["id"]), asked("q2")], two)
    history = [asked("q"), reference(one["id"]), asked("q2"), reference(two["id"]), asked("q3")]
    third = recordings.responded(history, said("a3"))
    recordings.write(order)
    assert set(recordings.threads().values()) == {first}
    assert recordings.parents() == {first: None, second: first, third: second}


def test_an_item_that_is_named_twice_stands_once() -> None:
    recordings = Responses()
    answer = said("a")
    first = recordings.responded([asked("q")], answer)
    recordings.responded([asked("q"), reference(answer["id"]), reference(answer["id"]), asked("q2")], said("a2"))
    recordings.write()
    assert recordings.tips()[first] == ["q", "a", "q2", "a2"]


def test_a_reference_to_what_is_not_here_stays() -> None:
    recordings = Responses()
    answer, lost = said("a"), said("lost")
    first = recordings.responded([asked("q")], answer)
    input = [asked("0"), reference(lost["id"]), asked("q"), reference(lost["id"]), reference(answer["id"]), asked("q2")]
    second = recordings.responded(input, said("a2"))
    stranger = recordings.responded([asked("q"), reference(lost["id"]), asked("q2")], said("a3"))
    recordings.write()
    assert recordings.parents() == {first: None, second: first, stranger: None}
    shown = recordings.shown(first)
    assert referenced(shown) == [lost["id"]] * 2
    assert [type(part) for part in shown[3].parts] == [AttachmentPart, TextPart]
    assert recordings.tips()[first] == ["0", "", "q", "a", "q2", "a2"]


@pytest.mark.parametrize("id", ["msg_1", "msg_00000012", "item", "msg_resp_413205"])
def test_an_id_that_may_be_anyones_joins_nobody(id: str) -> None:
    recordings = Responses()
    first = recordings.responded([asked("q")], {**said("a"), "id": id})
    second = recordings.responded([asked("other"), reference(id), asked("q2")], said("a2"))
    recordings.write()
    assert recordings.threads() == {first: first, second: second}
    assert recordings.db.execute("select item_id from llmproxy_items where turn_id = ?", [first]).fetchall() == []


def test_of_turns_with_one_item_the_newest_earlier_one_counts() -> None:
    recordings = Responses()
    answer = said("a")
    input = [asked("q"), reference(answer["id"]), asked("q2")]
    recordings.responded([asked("q")], answer)
    second = recordings.responded([asked("q")], answer)
    third = recordings.responded(input, said("a2"))
    recordings.responded([asked("q")], answer)
    recordings.write()
    assert recordings.parents()[third] == second


def test_a_pointer_beside_references_decides() -> None:
    recordings = Responses()
    one, two = said("a"), said("b")
    first = recordings.responded([asked("q")], one, response_id="resp_1")
    recordings.responded([asked("p")], two)
    third = recordings.responded([reference(two["id"]), asked("q2")], said("c"), previous_response_id="resp_1")
    recordings.write()
    assert recordings.parents()[third] == first
    assert "".join(recordings.tips()[first]) == "qabq2c"


def test_what_the_provider_did_not_store_is_not_named() -> None:
    turn = Turn("responses", "m", (), options={"store": False}, response_json={"output": [said("a")]})
    assert answered_items(turn) == []
    assert [item.parts for item in answered_items(Turn("responses", "m", (), response_json=turn.response_json))] == [1]
    assert answered_items(Turn("chat.completions", "m", (), response_json=turn.response_json)) == []


@pytest.mark.parametrize("response", [None, [], {"output": 7}, {"output": ["x", {"id": 7}, {}, None]}])
def test_odd_responses_have_no_items(response: Any) -> None:
    assert answered_items(Turn("responses", "m", (), response_json=response)) == []


def test_the_last_reference_is_of_the_last_answer() -> None:
    def last(*items: dict[str, Any]) -> str | None:
        return last_reference(read_items(items, Notes(), default_role="user"))

    one, two = said("a"), called()
    assert last(asked("q"), reference(one["id"]), reference(two["id"]), resulted("r")) == two["id"]
    assert last(asked("q"), reference(one["id"]), asked("q2"), said("b"), asked("q3")) is None
    assert last(asked("q")) is None and last() is None


@pytest.mark.parametrize("in_full", [(), ("function_call",)], ids=["all by reference", "calls in full"])
def test_through_the_proxy_and_replayed(tmp_path: Path, in_full: tuple[str, ...]) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    bodies: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []

    def echoed(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "id": None} if item["type"] in in_full else reference(item["id"])

    with captured(tmp_path) as client:
        for asks in ("hello", "what does f say", None, "thanks"):
            if asks is not None:
                history.append(asked(asks))
            body = {"model": "mock", "input": list(history), "tools": tools, "mock": {"reasoning": "hm"}}
            bodies.append(body)
            output = client.post("/v1/responses", json=body).raise_for_status().json()["output"]
            history += map(echoed, output)
            history += [resulted("11", item["call_id"]) for item in output if item["type"] == "function_call"]
    assert rows(tmp_path, "select count(distinct thread_id), count(*) from turns") == [(1, 4)]
    assert rows(tmp_path, "select count(*) from parts where type = 'attachment'") == [(0,)]
    with replayed(tmp_path) as (client, _):
        again = [client.post("/v1/responses", json=body).json()["output"] for body in bodies]
    assert [item["type"] for output in again for item in output if item["type"] != "reasoning"] == [
        "message",
        "function_call",
        "message",
        "message",
    ]
