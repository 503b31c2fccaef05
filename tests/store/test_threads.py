"""Threads: which turns make one conversation, in whichever order they are ingested."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm import Attachment, Tool
from llm.logs import LogStore
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.store.captured import read_turn
from tests.store.conversations import Recordings, assistant, call, result, system, user


def test_a_client_that_sends_the_history_again_gets_one_thread() -> None:
    recordings = Recordings()
    history = [system("s")]
    ids = []
    for number in range(4):
        history.append(user(f"q{number}"))
        ids.append(recordings.exchange(history, answer := assistant(f"a{number}")))
        history.append(answer)
    recordings.write()
    assert set(recordings.threads().values()) == {ids[0]}
    assert recordings.forks() == {ids[0]: None}
    assert recordings.tips()[ids[0]] == ["s", "q0", "a0", "q1", "a1", "q2", "a2", "q3", "a3"]
    assert LogStore(recordings.db).verify() == []
    # The history is stored once.
    assert recordings.db["messages"].count == 9


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_tools_that_are_sent_with_each_turn_are_named_where_a_thread_begins_or_they_change(order: list[int]) -> None:
    recordings = Recordings()
    read, write = Tool(name="read"), Tool(name="write")
    begun = [user("q")]
    went_on = [*begun, assistant("a"), user("q2")]
    changed = [*went_on, assistant("a2"), user("q3")]
    first = recordings.exchange(begun, assistant("a"), tools=(read, write))
    second = recordings.exchange(went_on, assistant("a2"), tools=(read, write))
    third = recordings.exchange(changed, assistant("a3"), tools=(read,))
    fork = recordings.exchange(went_on, assistant("another"), tools=(read, write))
    recordings.write(order)
    sent = recordings.db.execute("select turn_id, name from llmproxy_turn_tools order by turn_id, position").fetchall()
    both = ["read", "write"]
    assert sent == [
        *((turn, name) for turn in (first, second) for name in both),
        (third, "read"),
        *((fork, name) for name in both),
    ]
    named = recordings.db.execute("select turn_id, tools.name from turn_tools join tools on tools.id = tool_id")
    rows = set(named.fetchall())
    # Ingested in order, no row is there twice over; else a few may be, and none is missing.
    assert {(first, "read"), (first, "write"), (third, "read"), (fork, "read"), (fork, "write")} <= rows
    assert order != [0, 1, 2, 3] or not any(turn == second for turn, _ in rows)
    assert rows <= set(sent)


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["\nCurrent Task: greet"], "Current Task: greet"),
        (["hi <b>there</b>"], "hi <b>there</b>"),
        (["<system-reminder>\nx\n</system-reminder>\n", "Say where"], "Say where"),
        (["<context> x </context>"], "<context> x </context>"),
        (["<b>bold</b>", " and plain"], "and plain"),
        ([], "s"),
    ],
)
def test_a_conversation_is_named_by_the_users_words(texts: list[str], name: str) -> None:
    recordings = Recordings()
    recordings.exchange([Message("user", [TextPart(text) for text in texts]), system("s")], assistant("a"))
    recordings.write()
    assert recordings.db.execute("select name from threads").fetchall() == [(name,)]


def spoken(transcript: str) -> Message:
    audio = AttachmentPart(Attachment(type="audio/wav", content=b"RIFF"), {"openai": {"audio_id": "audio_1"}})
    return assistant(transcript, audio)


PICTURE = AttachmentPart(Attachment(type="image/png", content=b"png"))
DRAW = ToolCallPart(name="image_generation", arguments={}, tool_call_id="ig_1", server_executed=True)
CALL, CALL_2 = "call_nKXhxyPVx2s2gkNl", "call_7hxyPVx2s2gkNlKX"

# What the model said, and what the client sends back of it.
ECHOES: dict[str, tuple[Message, list[Message]]] = {
    "reasoning dropped": (Message("assistant", [ReasoningPart("hm"), TextPart("a")]), [assistant("a")]),
    "reasoning put into the text": (
        Message("assistant", [ReasoningPart("hm"), TextPart("a")]),
        [assistant("<think>\nhm\n</think>\n\na")],
    ),
    "reasoning put beside a call without an id": (
        Message("assistant", [ReasoningPart("hm"), call(None)]),
        [assistant("<think>hm</think>", call("made-up"))],
    ),
    "thoughts cut out of the text": (assistant("<think>hm</think>\n\na"), [assistant("a")]),
    "thoughts that the text begins in": (assistant("hm\n</think>\n\na"), [assistant("a")]),
    "nothing but reasoning": (Message("assistant", [ReasoningPart("hm")]), [assistant("<think>hm</think>")]),
    "nothing": (Message("assistant"), [assistant("")]),
    "space trimmed": (assistant(" a\n"), [assistant("a")]),
    "line ends changed": (assistant("a\r\nb"), [assistant("a\nb")]),
    "words in place of nothing (chatlas)": (assistant("\n\n"), [assistant("[empty string]")]),
    "words in place of nothing (Claude Code)": (Message("assistant"), [assistant("(no content)")]),
    "a list of parts": (assistant("ab"), [Message("assistant", [TextPart("a"), TextPart("b")])]),
    "several messages": (assistant("a\n\nb"), [assistant("a"), assistant("b")]),
    "metadata dropped": (
        Message("assistant", [TextPart("a", {"x": {"id": "1"}})], {"y": {}}),
        [assistant("a")],
    ),
    "an id made up": (assistant("", call(None, x=1)), [assistant("", call("made-up", x=1))]),
    "a number written anew": (assistant("", call("call_0", x=1.0)), [assistant("", call("call_0", x=1))]),
    "arguments changed": (assistant("", call("D681PevKs", x=1)), [assistant("", call("D681PevKs", x=1, y=2))]),
    "calls in another order": (
        assistant("", call("call_0", x=1), call("call_1", x=2)),
        [assistant("", call("call_1", x=2), call("call_0", x=1))],
    ),
    "the text beside a call dropped": (assistant("so", call("call_0", x=1)), [assistant("", call("call_0", x=1))]),
    "audio by its id": (
        spoken("a"),
        [Message("assistant", [AttachmentPart(None, {"openai": {"audio_id": "audio_1"}})])],
    ),
    "audio by its transcript": (spoken("a"), [assistant("a")]),
    "a picture dropped": (assistant("here", PICTURE), [assistant("here")]),
    "a picture by its call": (Message("assistant", [DRAW, PICTURE]), [Message("assistant", [DRAW])]),
    "a tool's result added to the text (CrewAI)": (
        assistant("Thought: t\nAction: f\nAction Input: {}"),
        [assistant("Thought: t\nAction: f\nAction Input: {}\nObservation: 42")],
    ),
    "a result that the model made up cut off (LangChain)": (
        assistant("Action: f\nAction Input: {}\nObservation: 42\nThought: t"),
        [assistant("Action: f\nAction Input: {}")],
    ),
    "a tool's input as Python writes it, and the result (LlamaIndex)": (
        assistant('Thought: t\nAction: f\nAction Input: {"city": "Rome", "deep": [1.5, null, true]}'),
        [
            assistant(
                "Thought: t\nAction: f\nAction Input: {'city': 'Rome', 'deep': [1.5, None, True]}"
                "\nObservation: 42\nThought: (Implicit) I can answer without any more tools!\nAnswer: 42"
            )
        ],
    ),
    "calls in the text (smolagents)": (
        assistant("I look.", call("call_36db674a2b742e4375a808c4", "get_weather", city="Rome", days=1)),
        [
            assistant(
                "I look.\nCalling tools:\n[{'id': 'call_36db674a2b742e4375a808c4', 'type': 'function', 'function':"
                " {'name': 'get_weather', 'arguments': {'city': 'Rome', 'days': 1}}}]"
            )
        ],
    ),
    "calls in the text, by what they say (smolagents)": (
        assistant("", call("call_1", "get_weather", city="L'Aquila")),
        [
            assistant(
                "Calling tools:\n[{'id': 'call_0', 'type': 'function', 'function': {'name': 'get_weather',"
                " 'arguments': {'city': \"L'Aquila\"}}}]"
            )
        ],
    ),
    "calls that were read out of the text (smolagents)": (
        assistant('{"name": "get_weather", "arguments": {}}'),
        [
            assistant(
                "{\"name\": \"get_weather\", \"arguments\": {}}\nCalling tools:\n[{'id': '5f0c5f2e-9d1a-4b3c', 'type':"
                " 'function', 'function': {'name': 'get_weather', 'arguments': {}}}]"
            )
        ],
    ),
    "code that ends where it was cut, and as a call (smolagents)": (
        assistant("Thought: t\n<code>\nprint('a')\n"),
        [
            assistant(
                "Thought: t\n<code>\nprint('a')\n</code>\nCalling tools:\n[{'id': 'call_1', 'type': 'function',"
                " 'function': {'name': 'python_interpreter', 'arguments': \"print('a')\"}}]"
            )
        ],
    ),
    "an object written anew": (
        assistant('{\n  "name": "Zo\\u00eb \\/ x",\n  "price": 2.0, "tags": ["a b"]\n}\n'),
        [assistant('{"price":2,"tags":["a b"],"name":"Zoë / x"}')],
    ),
    "a list written anew": (assistant('[{"b": 1, "a": null}]'), [assistant('[\n {"a": null, "b": 1}\n]')]),
    "an object as Python writes it": (assistant('{"ok": true, "x": null}'), [assistant("{'x': None, 'ok': True}")]),
    "an object out of its fence": (assistant('```json\n{"b": 1, "a": 2}\n```'), [assistant('{"a":2,"b":1}')]),
    "a fence left out": (assistant("```sql\nselect 1\n```\n"), [assistant("select 1")]),
    "thoughts in other tags cut out": (
        assistant("<thought>hm</thought>a<thinking>\nso\n</thinking>\nb [THINK]x[/THINK]"),
        [assistant("a\nb")],
    ),
    "typographic quotes and dashes in ASCII": (
        assistant("It\u2019s \u201chere\u201d \u2013 3\u202fkm\u2026 or\u2014"),
        [assistant('It\'s "here" - 3 km... or--')],
    ),
    "no code, and yet its end (smolagents)": (assistant("no code at all"), [assistant("no code at all</code>")]),
}


@pytest.mark.parametrize(("answer", "echo"), ECHOES.values(), ids=ECHOES)
def test_an_echo_need_not_be_equal(answer: Message, echo: list[Message]) -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], answer)
    second = recordings.exchange([user("q"), *echo, user("q2")], assistant("a2"))
    recordings.write()
    assert recordings.threads()[second] == first


def test_an_answer_that_went_on_with_the_assistants_message_is_echoed_as_one() -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q"), assistant("{")], assistant('"x": 1}'))
    second = recordings.exchange([user("q"), assistant('{"x": 1}'), user("q2")], assistant("a2"))
    recordings.write()
    assert recordings.threads()[second] == first


@pytest.mark.parametrize(
    ("answer", "echo", "is_echo"),
    [
        ('{"x": 1}', '{"x": 1}', True),  # Mistral
        ('"x": 1}', '{"x": 1}', True),  # DeepSeek
        ('{"x": 1}', '{{"x": 1}', False),
    ],
)
def test_an_answer_may_repeat_the_prefix_that_it_was_given(answer: str, echo: str, is_echo: bool) -> None:
    recordings = Recordings()
    prefix = Message("assistant", [TextPart("{")], {"openai": {"prefix": True}})
    first = recordings.exchange([user("q"), prefix], assistant(answer))
    second = recordings.exchange([user("q"), assistant(echo), user("q2")], assistant("a2"))
    recordings.write()
    assert (recordings.threads()[second] == first) == is_echo


@pytest.mark.parametrize(
    ("generated", "is_echoed"),
    [
        ('{"name": "f", "arguments": {"x": 1}}', True),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', True),
        ('{"name": "f", "arguments": {"x": 2}}', False),
        ('{"name": 7}', False),
        ("<function=f>", False),
        (7, False),
    ],
)
def test_a_call_that_the_provider_refused_is_echoed(generated: object, is_echoed: bool) -> None:
    recordings = Recordings()
    error = {"message": "no such argument", "code": "tool_use_failed", "failed_generation": generated}
    thought = Message("assistant", [ReasoningPart("hm")])
    first = recordings.exchange([user("q")], thought, response_json={"error": error}, error="no such argument")
    second = recordings.exchange(
        [user("q"), assistant("<think>hm</think>", call("made-up", x=1)), result("made-up", "try again")],
        assistant("a"),
    )
    recordings.write()
    assert (recordings.threads()[second] == first) == is_echoed


FORCED = [
    "required",
    {"type": "any"},
    {"type": "tool", "name": "f"},
    {"type": "function", "function": {"name": "f"}},
]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
@pytest.mark.parametrize("choice", FORCED)
def test_structured_output_by_a_tool_is_echoed_as_text_or_as_the_call(choice: Any, order: list[int]) -> None:
    recordings = Recordings()
    answer = assistant("", call(CALL, output=7, unit="km"))
    first = recordings.exchange([user("q")], answer, options={"tool_choice": choice})
    as_text = recordings.exchange([user("q"), assistant('{"unit":"km","output":7}'), user("q2")], assistant("a"))
    as_call = recordings.exchange([user("q"), answer, result(CALL, "r")], assistant("b"))
    recordings.write(order)
    parents = dict(recordings.db.execute("select turn_id, parent_turn_id from llmproxy_turns").fetchall())
    assert parents == {first: None, as_text: first, as_call: first}


@pytest.mark.parametrize("data", [{"title": "a", "n": 1.0}, ["a", {"b": 2}], "a", 7])
def test_structured_output_is_echoed_without_its_wrapper(data: Any) -> None:
    """As ellmer and chatlas do."""
    recordings = Recordings()
    answer = assistant("", call(CALL, "_structured_tool_call", data=data))
    first = recordings.exchange([user("q")], answer, options={"tool_choice": FORCED[2]})
    second = recordings.exchange([user("q"), assistant(json.dumps(data, indent=1)), user("q2")], assistant("a"))
    recordings.write()
    assert recordings.threads()[second] == first


@pytest.mark.parametrize(
    ("choice", "answer", "echo"),
    [
        ("auto", assistant("", call(CALL, output=7)), '{"output": 7}'),
        (None, assistant("", call(CALL, output=7)), '{"output": 7}'),
        ("required", assistant("", call(CALL, output=7)), '{"output": 8}'),
        ("required", assistant("", call(CALL, output=7), call(CALL_2, output=7)), '{"output": 7}'),
        # Without its id the call is known by what it says alone.
        ("required", assistant("", call("call_0", output=7)), '{"output": 7}'),
    ],
)
def test_an_object_as_text_is_no_echo_of_any_call(choice: Any, answer: Message, echo: str) -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], answer, options={"tool_choice": choice})
    second = recordings.exchange([user("q"), assistant(echo), user("q2")], assistant("a"))
    recordings.write()
    assert recordings.threads() == {first: first, second: second}


def test_an_old_result_that_the_agent_cut_out_does_not_break_the_thread() -> None:
    recordings = Recordings()
    begun = [user("q"), assistant("", call(CALL, x=1))]
    then = assistant("", call(CALL_2, x=2))
    first = recordings.exchange(begun[:1], begun[1])
    second = recordings.exchange([*begun, result(CALL, "a long text")], then)
    third = recordings.exchange([*begun, result(CALL, "[cut]"), then, result(CALL_2, "r")], assistant("a"))
    fourth = recordings.exchange(
        [*begun, result(CALL, "[cut]"), then, result(CALL_2, "[cut]"), assistant("a"), user("q2")], assistant("b")
    )
    recordings.write()
    assert {recordings.threads()[id] for id in (second, third, fourth)} == {first}
    parents = dict(recordings.db.execute("select turn_id, parent_turn_id from llmproxy_turns").fetchall())
    assert parents == {first: None, second: first, third: second, fourth: third}


NOT_ECHOES: dict[str, tuple[Message, Message]] = {
    "another answer": (assistant("a"), assistant("b")),
    "an answer that begins alike": (assistant("a"), assistant("another")),
    "an answer to an empty one": (Message("assistant"), assistant("a")),
    "nothing for an answer": (assistant("a"), assistant("")),
    "a reference for an empty answer": (
        Message("assistant"),
        Message("assistant", [AttachmentPart(None, {"openai": {"type": "item_reference", "id": "msg_1"}})]),
    ),
    "a counter for an id": (
        assistant("", call("functions.get_city:0", x=1)),
        assistant("", call("functions.get_city:0")),
    ),
    "another observation of an answer that is none of ReAct's": (
        assistant("The log says\nObservation: 1"),
        assistant("The log says\nObservation: 2"),
    ),
    "another input of a tool": (
        assistant('Action: f\nAction Input: {"x": 1}'),
        assistant("Action: f\nAction Input: {'x': 2}"),
    ),
    "another call in the text": (
        assistant("", call(CALL, x=1)),
        assistant(f"Calling tools:\n[{{'id': '{CALL_2}', 'function': {{'name': 'f', 'arguments': {{'x': 2}}}}}}]"),
    ),
    "words in place of something": (assistant("a"), assistant("[empty string]")),
    "another object": (assistant('{"a": 1, "b": 2}'), assistant('{"a": 2, "b": 1}')),
    "an object with another space in its words": (assistant('{"a": "b\\tc"}'), assistant('{"a": "b\\nc"}')),
    "another type of value": (assistant('{"a": 1}'), assistant('{"a": "1"}')),
    "another order of a list": (assistant('["a", "b"]'), assistant('["b", "a"]')),
    "an object that was cut": (assistant('{"a": 1, "b": 2}'), assistant('{"a": 1')),
    "an object too deep to be one": (assistant("[" * 900 + "]" * 900), assistant("[" * 901 + "]" * 901)),
    "the fence of another code": (assistant("```\na\n```"), assistant("```\nb\n```")),
    "all of it a thought, but for another word": (assistant("<thinking>a</thinking>b"), assistant("c")),
    "a thought that does not end": (assistant("<thinking>a"), assistant("<thinking>b")),
    "a text that only begins as calls do": (assistant("a"), assistant("a\nCalling tools:\n[{'id': \\d")),
    "calls that are no JSON": (assistant("a"), assistant("a\nCalling tools:\n[{'id': {b'x', 1j}}]")),
    "another call": (assistant("", call(CALL, x=1)), assistant("", call(CALL_2, x=2))),
    "another picture": (
        Message("assistant", [PICTURE]),
        Message("assistant", [AttachmentPart(Attachment(type="image/png", content=b"another"))]),
    ),
}


@pytest.mark.parametrize(("answer", "other"), NOT_ECHOES.values(), ids=NOT_ECHOES)
def test_what_another_conversation_says_is_no_echo(answer: Message, other: Message) -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], answer)
    second = recordings.exchange([user("q"), other, user("q2")], assistant("a2"))
    recordings.write()
    assert recordings.threads() == {first: first, second: second}


def test_of_answers_that_differ_in_form_alone_the_one_that_is_echoed_to_the_letter() -> None:
    recordings = Recordings()
    forms = [
        '{"a": 1, "b": 2}',
        '```json\n{"a": 1, "b": 2}\n```',
        '{"b":2,"a":1}',
        "<thinking>x</thinking>{'b':2,'a':1}",
    ]
    answers = [recordings.exchange([user("q")], assistant(form)) for form in forms]
    goes_on = [recordings.exchange([user("q"), assistant(form), user("q2")], assistant("a2")) for form in forms]
    recordings.write()
    assert [recordings.threads()[id] for id in goes_on] == answers


def test_system_prompts_are_not_part_of_the_key() -> None:
    recordings = Recordings()
    first = recordings.exchange([system("it is noon"), user("q")], assistant("a"))
    second = recordings.exchange([system("it is one"), user("q"), assistant("a"), user("q2")], assistant("a2"))
    recordings.write()
    assert recordings.threads()[second] == first


def test_tool_call_ids_tell_equal_conversations_apart() -> None:
    recordings = Recordings()
    one = recordings.exchange([user("q")], assistant("", call("id-1", x=1)))
    two = recordings.exchange([user("q")], assistant("", call("id-2", x=1)))
    after_one = recordings.exchange([user("q"), assistant("", call("id-1", x=1)), result("id-1", "r")], assistant("a"))
    after_two = recordings.exchange([user("q"), assistant("", call("id-2", x=1)), result("id-2", "r")], assistant("a"))
    recordings.write()
    threads = recordings.threads()
    assert (threads[after_one], threads[after_two]) == (one, two)


def test_the_ids_of_items_tell_equal_conversations_apart() -> None:
    """As the OpenAI Agents SDK sends them back, in conversations that begin alike at the same time."""
    recordings = Recordings()

    def said(item: str) -> dict[str, Any]:
        return {"api": "responses", "response_json": {"output": [{"type": "reasoning", "id": "rs"}, message(item)]}}

    def message(item: str) -> dict[str, Any]:
        return {"type": "message", "role": "assistant", "id": item}

    begun = [user("hi"), assistant("hello"), user("q")]
    one = recordings.exchange(begun[:1], begun[1], **said("msg_1"))
    two = recordings.exchange(begun[:1], begun[1], **said("msg_2"))
    one_more = recordings.exchange(begun, assistant("a"), **said("msg_3"), echoed_item="msg_1")
    two_more = recordings.exchange(begun, assistant("a"), **said("msg_4"), echoed_item="msg_2")
    unsaid = recordings.exchange(begun, assistant("a"), **said("msg_5"))
    recordings.write([2, 3, 0, 1, 4])
    assert recordings.threads() == {one: one, two: two, one_more: one, two_more: two, unsaid: unsaid}
    assert recordings.forks()[unsaid] == two


ITEM, ITEM_2 = "msg_0a098396a8feca410068caae3b47", "msg_67ccd3acc8d48190a77525dc6de6"


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
@pytest.mark.parametrize(("echoed", "is_named"), [(ITEM, True), (ITEM_2, False), (None, False), ("msg_1", False)])
def test_an_answers_id_names_it_where_the_history_before_it_was_cut(
    echoed: str | None, is_named: bool, order: list[int]
) -> None:
    recordings = Recordings()

    def said(item: str) -> dict[str, Any]:
        output = [{"type": "message", "role": "assistant", "id": item}]
        return {"api": "responses", "response_json": {"output": output}}

    long = [user("q"), assistant("a"), user("q2")]
    first = recordings.exchange(long, assistant("b"), **said(ITEM if echoed == ITEM else "msg_1"))
    other = recordings.exchange([user("x")], assistant("b"), **said("msg_2"))
    cut = recordings.exchange([assistant("b"), user("q3")], assistant("c"), **said("msg_3"), echoed_item=echoed)
    recordings.write(order)
    assert recordings.threads() == {first: first, other: other, cut: first if is_named else cut}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_a_call_that_comes_back_by_the_id_of_its_item_tells_equal_conversations_apart(order: list[int]) -> None:
    """As chatlas sends it back."""
    recordings = Recordings()

    def said(item: str) -> dict[str, Any]:
        return {"api": "responses", "response_json": {"output": [{"type": "function_call", "id": item}]}}

    def echo(item: str) -> list[Message]:
        return [user("q"), assistant("", call(item, x=1)), result(item, "r")]

    items = ["fc_0f9e576c8c577a130169fb7cbaa9", "fc_03b91364924fb0280169fb7cda61"]
    one = recordings.exchange([user("q")], assistant("", call(CALL, x=1)), **said(items[0]))
    two = recordings.exchange([user("q")], assistant("", call(CALL_2, x=1)), **said(items[1]))
    one_more = recordings.exchange(echo(items[0]), assistant("a"), api="responses")
    two_more = recordings.exchange(echo(items[1]), assistant("a"), api="responses")
    recordings.write(order)
    assert recordings.threads() == {one: one, two: two, one_more: one, two_more: two}


@pytest.mark.parametrize(
    ("id", "is_random"),
    [
        ("call_00000001", False),
        ("call_12345678", False),
        ("call_20250131", False),
        ("call_0000000000001", False),
        ("function-call-1027348602394028374", True),
    ],
)
def test_a_number_for_an_id_joins_conversations_only_where_it_is_random(id: str, is_random: bool) -> None:
    recordings = Recordings()
    first = recordings.exchange([user("weather in Paris")], assistant("", call(id, city="Paris")))
    # Nothing but the id is the same; where it is random, the agent has cut the history.
    other = recordings.exchange([user("go on"), assistant("", call(id, path=".")), result(id, "r")], assistant("a"))
    recordings.write()
    assert (recordings.threads()[other] == first) == is_random


def test_on_a_tie_the_same_session_then_the_newest() -> None:
    recordings = Recordings()
    a = recordings.exchange([user("q")], assistant("yes"), session="A")
    b = recordings.exchange([user("q")], assistant("yes"), session="B")
    for_a = recordings.exchange([user("q"), assistant("yes"), user("go")], assistant("1"), session="A")
    newest = recordings.exchange([user("q"), assistant("yes"), user("on")], assistant("2"))
    recordings.write()
    threads = recordings.threads()
    assert (threads[for_a], threads[newest]) == (a, b)


@pytest.mark.parametrize("id", [None, "call_0"])
def test_on_a_tie_of_many_the_same_session(id: str | None) -> None:
    recordings = Recordings()
    answer = assistant("Hello!", *([call(id)] if id else []))
    first = [recordings.exchange([user("hi")], answer, session=f"S{number}") for number in range(60)]
    recordings.exchange([user("hi")], answer)
    then = [user("hi"), answer, *([result(id, "r")] if id else [])]
    second = [
        recordings.exchange([*then, user(f"more {number}")], assistant("ok"), session=f"S{number}")
        for number in range(60)
    ]
    recordings.write()
    threads = recordings.threads()
    assert [threads[turn] for turn in second] == first


def test_on_a_tie_the_same_model_and_system_prompt() -> None:
    recordings = Recordings()
    asked = [user("q"), assistant("yes"), user("go")]
    a = recordings.exchange([system("s"), user("q")], assistant("yes"), model="large")
    b = recordings.exchange([system("s"), user("q")], assistant("yes"), model="small")
    c = recordings.exchange([system("t"), user("q")], assistant("yes"), model="small")
    for_a = recordings.exchange([system("s"), *asked], assistant("1"), model="large")
    for_b = recordings.exchange([system("s"), *asked], assistant("2"), model="small")
    newest = recordings.exchange([system("u"), *asked], assistant("3"), model="small")
    recordings.write()
    threads = recordings.threads()
    assert (threads[for_a], threads[for_b], threads[newest]) == (a, b, c)


def test_regenerated_edited_and_parallel_are_forks() -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], assistant("a"))
    begun = [user("q"), assistant("a")]
    second = recordings.exchange([*begun, user("more")], assistant("b"))
    regenerated = recordings.exchange([*begun, user("more")], assistant("b, differently"))
    edited = recordings.exchange([*begun, user("less")], assistant("c"))
    after_edit = recordings.exchange([*begun, user("less"), assistant("c"), user("on")], assistant("d"))
    after_second = recordings.exchange([*begun, user("more"), assistant("b"), user("on")], assistant("e"))
    recordings.write()
    assert recordings.threads() == {
        first: first,
        second: first,
        regenerated: regenerated,
        edited: edited,
        after_edit: edited,
        after_second: first,
    }
    assert recordings.forks() == {first: None, regenerated: first, edited: first}


def test_a_side_call_does_not_take_the_thread() -> None:
    recordings = Recordings()
    first = recordings.exchange([system("agent"), user("q")], assistant("a"), model="large")
    history = [user("q"), assistant("a")]
    title = recordings.exchange([system("titles"), *history, user("Give it a title")], assistant("T"), model="small")
    second = recordings.exchange([system("agent"), *history, user("q2")], assistant("a2"), model="large")
    recordings.write()
    assert recordings.threads() == {first: first, title: title, second: first}
    assert recordings.forks()[title] == first
    assert recordings.tips()[first] == ["agent", "q", "a", "q2", "a2"]


def test_a_switch_of_model_goes_on_with_the_thread() -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], assistant("a"), model="small")
    second = recordings.exchange([user("q"), assistant("a"), user("q2")], assistant("a2"), model="large")
    recordings.write()
    assert recordings.threads()[second] == first


def test_sub_agents_and_topic_checks_have_threads_of_their_own() -> None:
    recordings = Recordings()
    main = recordings.exchange([user("do it")], assistant("", call("t1", "task")), session="S")
    agent = recordings.exchange([user("sub-task")], assistant("done"), session="S")
    topic = recordings.exchange([user("do it")], assistant("Topic: it"), session="S", model="small")
    more = recordings.exchange(
        [user("do it"), assistant("", call("t1", "task")), result("t1", "done")], assistant("ok"), session="S"
    )
    recordings.write()
    threads = recordings.threads()
    assert threads[more] == main
    assert len({threads[main], threads[agent], threads[topic]}) == 3


def test_several_choices_are_turns_on_one_parent_and_each_can_go_on() -> None:
    recordings = Recordings()
    id = recordings.exchange([user("q")], assistant("one"), assistant("two"))
    after = recordings.exchange([user("q"), assistant("two"), user("go")], assistant("on"))
    recordings.write()
    rows = recordings.db.execute("select id, parent_message_hash, thread_id from turns order by id").fetchall()
    assert len(rows) == 3
    assert len({row[1] for row in rows if row[0] != after}) == 1
    assert {row[2] for row in rows} == {id}
    assert recordings.tips()[id] == ["q", "two", "go", "on"]


def test_previous_response_id_and_conversation() -> None:
    recordings = Recordings()
    responses: dict[str, Any] = {"api": "responses", "instructions": 1}
    first = recordings.exchange([system("i1"), user("q")], assistant("a"), response_id="resp_1", **responses)
    second = recordings.exchange(
        [system("i2"), user("q2")],
        assistant("a2"),
        previous_response_id="resp_1",
        response_id="resp_2",
        **responses,
    )
    third = recordings.exchange([user("q3")], assistant("a3"), previous_response_id="resp_2")
    fork = recordings.exchange([user("q3 again")], assistant("a4"), previous_response_id="resp_2")
    lost = recordings.exchange([user("q5")], assistant("a5"), previous_response_id="resp_unknown")
    recordings.write()
    threads = recordings.threads()
    assert threads == {first: first, second: first, third: first, fork: fork, lost: lost}
    assert recordings.tips()[first] == ["q", "a", "q2", "a2", "q3", "a3"]
    assert recordings.tips()[fork] == ["q", "a", "q2", "a2", "q3 again", "a4"]
    talk = Recordings()
    one = talk.exchange([user("q")], assistant("a"), conversation="conv_1")
    two = talk.exchange([user("q2")], assistant("a2"), conversation="conv_1")
    talk.write()
    assert talk.threads() == {one: one, two: one}
    assert talk.tips()[one] == ["q", "a", "q2", "a2"]


def test_a_message_thread_keeps_the_system_prompt_and_the_tools() -> None:
    """As Anthropic's tool runner does it: a loop over a thread of the provider's, then the whole history again."""
    recordings = Recordings()
    tools = (Tool(name="get_weather", description="weather", input_schema={"type": "object"}),)
    weather = Message("assistant", [call("toolu_01A9x", "get_weather", city="Rome")])
    asked = [system("be kind"), user("q")]
    sunny = Message("tool", [ToolResultPart(name="", output="Sunny", tool_call_id="toolu_01A9x")])
    threads = {"api": "messages", "options": {"thread": {"type": "create"}}}
    going_on = {"thread": {"type": "continue", "previous_message_id": "msg_1"}}
    first = recordings.exchange(asked, weather, tools=tools, response_id="msg_1", **threads)
    second = recordings.exchange(
        [sunny], assistant("a"), api="messages", previous_response_id="msg_1", response_id="msg_2", options=going_on
    )
    third = recordings.exchange(
        [*asked, weather, sunny, assistant("a"), user("q2")], assistant("a2"), tools=tools, **threads
    )
    lost = recordings.exchange([sunny], assistant("a"), api="messages", previous_response_id="gone", options=going_on)
    recordings.write()
    assert recordings.threads() == {first: first, second: first, third: first, lost: lost}
    captured = read_turn(recordings.db.conn, second)
    assert captured is not None
    assert captured.whole_input
    assert captured.tools == tools
    assert captured.options == {}
    assert [message.role for message in captured.input] == ["system", "user", "assistant", "tool"]
    assert captured.input[-1].parts == [ToolResultPart("get_weather", "Sunny", "toolu_01A9x")]
    alone = read_turn(recordings.db.conn, lost)
    assert alone is not None
    assert not alone.whole_input


def test_a_developers_message_is_carried_over_and_instructions_are_not() -> None:
    recordings = Recordings()
    begun = [system("i1"), system("dev"), user("q")]
    first = recordings.exchange(begun, assistant("a"), response_id="r1", instructions=1, api="responses")
    told = [system("dev 2"), user("q2")]
    recordings.exchange(told, assistant("a2"), previous_response_id="r1", response_id="r2", api="responses")
    last = [system("i3"), user("q3")]
    recordings.exchange(last, assistant("a3"), previous_response_id="r2", instructions=1)
    recordings.write()
    assert recordings.tips() == {first: ["i3", "dev", "q", "a", "dev 2", "q2", "a2", "q3", "a3"]}


def test_attachments_are_part_of_the_key() -> None:
    def shown(content: bytes) -> Message:
        return Message("user", [AttachmentPart(Attachment(type="image/png", content=content)), TextPart("what?")])

    recordings = Recordings()
    one = recordings.exchange([shown(b"1")], assistant("a"))
    two = recordings.exchange([shown(b"2")], assistant("a"))
    after_one = recordings.exchange([shown(b"1"), assistant("a"), user("sure?")], assistant("yes"))
    recordings.write()
    threads = recordings.threads()
    assert threads[after_one] == one != threads[two]


def story() -> Recordings:
    """A conversation with forks, side calls, equal answers and a switch of system prompt."""
    recordings = Recordings()
    exchange: Callable[..., str] = recordings.exchange
    history = [system("s"), user("q0")]
    for number in range(4):
        answer = assistant(f"a{number}", call(f"id{number}", n=number)) if number % 2 else assistant(f"a{number}")
        exchange(history, answer, model="large")
        if number == 1:
            exchange([system("t"), *history[1:], answer, user("title?")], assistant("T"), model="small")
        if number == 2:
            exchange([*history, answer, user("edited")], assistant("e"), model="large")
            exchange([*history, answer, user("edited"), assistant("e"), user("on")], assistant("f"), model="large")
        history = [*history, answer, *([result(f"id{number}", "r")] if number % 2 else []), user(f"q{number + 1}")]
    exchange([user("q0")], assistant("a0"), model="other")
    return recordings


@cache
def told_in_order() -> tuple[object, ...]:
    in_order = story()
    assert len(in_order.pending) == 8
    in_order.write()
    return in_order.threads(), in_order.forks(), in_order.tips()


@given(order=st.permutations(range(8)))
@settings(max_examples=60)
def test_the_order_of_ingesting_changes_nothing(order: list[int]) -> None:
    shuffled = story()
    shuffled.write(order)
    assert (shuffled.threads(), shuffled.forks(), shuffled.tips()) == told_in_order()
    assert LogStore(shuffled.db).verify() == []


@given(order=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=8))
@settings(max_examples=12)
def test_to_ingest_again_changes_nothing(order: list[tuple[int, bool]]) -> None:
    """Whatever is read again, be it as no turn at first and later as one."""
    once, again = story(), story()
    written = list(again.pending)
    once.write()
    again.write()
    is_turn = dict.fromkeys(range(8), True)
    for at, understood in order:
        exchange, turn = written[at]
        again.write_again(exchange, turn if understood else None)
        is_turn[at] = understood
        assert set(again.threads()) == {written[at][0].id for at, is_one in is_turn.items() if is_one}
        assert set(again.forks()) == set(again.threads().values())
        assert LogStore(again.db).verify() == []
        lost = "select turn_id from llmproxy_turns where parent_turn_id not in (select id from turns)"
        assert again.db.execute(lost).fetchall() == []
    for at, understood in is_turn.items():
        if not understood:
            again.write_again(*written[at])
    assert again.threads() == once.threads()
    assert again.forks() == once.forks()
    assert again.tips() == once.tips()
    for sql in (
        "select id, thread_id from llmproxy_exchanges order by id",
        "select turn_id, parent_turn_id, thread_id from llmproxy_turns order by turn_id",
        "select * from llmproxy_tool_calls",
        "select turn_id, prompt, response from turn_search order by turn_id",
        "select turn_id, tool_id from turn_tools order by turn_id, tool_id",
    ):
        assert again.db.execute(sql).fetchall() == once.db.execute(sql).fetchall()


def test_an_answer_that_is_read_again_as_fewer_keeps_those_that_continue_it() -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], assistant("one"), assistant("two"))
    after = recordings.exchange([user("q"), assistant("two"), user("go")], assistant("on"))
    (exchange, turn), _ = recordings.pending
    recordings.write()
    recordings.write_again(exchange, dataclasses.replace(turn, outputs=turn.outputs[:1]))
    assert recordings.threads() == {first: first, after: first}
    rows = recordings.db.execute("select turn_id, parent_turn_id from llmproxy_turns order by turn_id").fetchall()
    assert rows == [(first, None), (after, first)]


def test_the_same_bytes_sent_as_two_types_do_not_spoil_each_other() -> None:
    def shown(type: str) -> Message:
        return Message("user", [AttachmentPart(Attachment(type=type, content=b"bytes"))])

    recordings = Recordings()
    recordings.exchange([shown("image/png")], assistant("a picture"))
    recordings.exchange([shown("text/plain")], assistant("a text"))
    recordings.exchange([shown("image/png"), assistant("a picture"), user("sure?")], assistant("yes"))
    recordings.write()
    store = LogStore(recordings.db)
    assert store.verify() == []
    types = {
        part.attachment.type
        for (tip,) in recordings.db.execute("select tip_message_hash from turns").fetchall()
        for message in store.load_chain(tip)
        for part in message.parts
        if isinstance(part, AttachmentPart) and part.attachment is not None
    }
    assert types == {"image/png", "text/plain"}
