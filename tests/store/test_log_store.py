"""What is written in bulk is what `llm` itself would have written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from condense_json import condense_json, uncondense_json
from hypothesis import given
from hypothesis import strategies as st
from llm import Attachment, Tool
from llm.logs import LogStore
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from sqlite_utils import Database

from llmproxy.reconstruct.turn import Output, Turn, Usage
from llmproxy.store.condense import condensed
from llmproxy.store.exchanges import utc
from llmproxy.store.llm_store import TurnStore
from llmproxy.store.open_database import open_database

STARTED = 1_700_000_000.0
LONG = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife."


@dataclass(frozen=True)
class _Model:
    model_id: str


@dataclass(frozen=True)
class _Prompt:
    messages: Sequence[Message]
    options: Mapping[str, Any]
    tools: Sequence[Tool]
    schema: Mapping[str, Any] | None
    prompt: str = ""
    system: str = ""
    fragments: Sequence[str] = ()
    system_fragments: Sequence[str] = ()
    tool_results: Sequence[Any] = ()


@dataclass(frozen=True)
class _Response:
    """What `LogStore.log` reads of `llm.Response`."""

    id: str
    model: _Model
    prompt: _Prompt
    output: Sequence[Message]
    turn: Turn
    conversation: None = None

    @property
    def resolved_model(self) -> str | None:
        return self.turn.resolved_model

    @property
    def input_tokens(self) -> int | None:
        return self.turn.usage.input_tokens

    @property
    def output_tokens(self) -> int | None:
        return self.turn.usage.output_tokens

    @property
    def token_details(self) -> Mapping[str, Any]:
        return self.turn.usage.details

    @property
    def response_json(self) -> Any:
        return self.turn.response_json

    def _messages_now(self) -> Sequence[Message]:
        return self.output

    def duration_ms(self) -> int:
        return 7

    def datetime_utc(self) -> str:
        return utc(STARTED)


def picture() -> Attachment:
    return Attachment(type="image/png", content=b"\x89PNG")


TOOLS = tuple(
    Tool(name=name, description=f"{name}: {LONG}", input_schema={"type": "object", "properties": {name: {}}})
    for name in ("look", "say")
)
QUESTION = (Message("system", [TextPart("Be short.")]), Message("user", [TextPart(LONG), AttachmentPart(picture())]))
CALL = Message(
    "assistant",
    [
        ReasoningPart("Let me look.", provider_metadata={"openai": {"encrypted": LONG * 2}}),
        TextPart("I look."),
        ToolCallPart("look", {"at": LONG}, "call_1"),
    ],
    {"openai": {"phase": "commentary"}},
)
RESULT = Message("tool", [ToolResultPart("look", LONG, "call_1", attachments=[picture()])])
ANSWER = Message("assistant", [TextPart(LONG + " So they say.")])

TURNS = [
    Turn("chat.completions", "m", QUESTION, (Output(0, (CALL,)),), tools=TOOLS, options={"temperature": 0, "x": None}),
    Turn(
        "chat.completions",
        "m",
        (*QUESTION, CALL, RESULT),
        (Output(0, (ANSWER,)),),
        tools=TOOLS,
        resolved_model="m-1",
        usage=Usage(3, 4, {"cached": 1}),
        response_json={"choices": [{"message": {"content": LONG + " So they say."}}], "tools": TOOLS[0].description},
    ),
    Turn(
        "chat.completions",
        "m",
        (*QUESTION, CALL, RESULT, ANSWER, Message("user", [TextPart("And then?")])),
        (Output(0, (Message("assistant", [TextPart('{"then": 1}')]),)),),
        schema={"type": "object", "properties": {"then": {"type": "integer", "description": LONG}}},
        response_json={"format": {"type": "object"}, "said": [LONG, {"$": "an odd field"}]},
    ),
    Turn(
        "responses",
        "m",
        (Message("user", [TextPart("One, "), AttachmentPart(picture()), TextPart("two.")]),),
        (Output(0, (CALL, RESULT, Message("assistant", [TextPart("Three, "), TextPart("four.")]), ANSWER)),),
    ),
    Turn("chat.completions", "m", (Message("user", [TextPart("Say nothing.")]),), (Output(0, ()),)),
    Turn("chat.completions", "m", (Message("system", [TextPart("Speak.")]),), (Output(0, (ANSWER,)),)),
    Turn("chat.completions", "m", (Message("user", [TextPart("")]),), (Output(0, (RESULT,)),)),
    Turn("chat.completions", "m", (), (Output(0, ()),)),
]


def contents(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    tables = ("messages", "parts", "part_attachments", "attachments", "schemas", "tools", "turns", "turn_tools")
    return {
        table: [tuple(map(meaning, row)) for row in db.execute(f"select * from {table} order by 1, 2").fetchall()]
        for table in (*tables, "turn_search")
    }


def meaning(value: Any) -> Any:
    """JSON may be spelled in more than one way."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


def test_the_same_rows_as_llm_itself_writes(tmp_path: Path, closed_after: Callable[[Database], Database]) -> None:
    ours = closed_after(open_database(tmp_path / "ours.db"))
    theirs = closed_after(Database(tmp_path / "theirs.db"))
    logs, store = LogStore(theirs), TurnStore(ours)
    logs.ensure_thread("thread")
    store.ensure_thread("thread", (), None, STARTED)
    for at, turn in enumerate(TURNS):
        output = turn.outputs[0].messages
        prompt = _Prompt(turn.input, turn.options, turn.tools, turn.schema)
        logs.log(_Response(f"turn{at}", _Model("m"), prompt, output, turn), "thread")
        store.write_turn(
            turn,
            turn.outputs[0],
            turn_id=f"turn{at}",
            thread_id="thread",
            input=turn.input,
            tool_set=store.tool_set(turn.tools),
            started=STARTED,
            milliseconds=7,
        )
    assert contents(ours) == contents(theirs)
    assert LogStore(ours).verify() == []
    for at, turn in enumerate(TURNS):
        assert LogStore(ours).turn_response_json(f"turn{at}") == turn.response_json


def test_a_long_chain_is_stored_once(tmp_path: Path, closed_after: Callable[[Database], Database]) -> None:
    db = closed_after(open_database(tmp_path / "logs.db"))
    store = TurnStore(db)
    store.ensure_thread("thread", (), None, STARTED)
    input = tuple(Message("user" if at % 2 == 0 else "assistant", [TextPart(f"{at}")]) for at in range(1201))
    turn = Turn("chat.completions", "m", input, (Output(0, (ANSWER,)),))
    for turn_id in ("first", "again"):
        for_this = replace(turn, input=input if turn_id == "first" else (*input, ANSWER, QUESTION[1]))
        store.write_turn(
            for_this,
            for_this.outputs[0],
            turn_id=turn_id,
            thread_id="thread",
            input=for_this.input,
            tool_set=None,
            started=STARTED,
            milliseconds=None,
        )
    assert db.execute("select count(*) from messages").fetchone() == (1201 + 1 + 2,)
    assert store.history("again") == [*input, ANSWER, QUESTION[1], ANSWER]


def test_what_is_not_latin_takes_no_more_room_than_it_was_sent_with(
    tmp_path: Path, closed_after: Callable[[Database], Database]
) -> None:
    db = closed_after(open_database(tmp_path / "logs.db"))
    store = TurnStore(db)
    store.ensure_thread("thread", (), None, STARTED)
    text = "幸せな家族はどれも似ている。每个不幸的家庭各有不幸。"
    said = Message("assistant", [ToolCallPart("look", {"at": text}, "call_1")])
    turn = Turn("chat.completions", "m", (Message("tool", [ToolResultPart("look", text, "call_0")]),))
    turn = replace(turn, response_json={"odd": text, "half": "\ud83d"}, options={"user": text})
    store.write_turn(
        turn,
        Output(0, (said,)),
        turn_id="turn",
        thread_id="thread",
        input=turn.input,
        tool_set=None,
        started=STARTED,
        milliseconds=None,
    )
    assert db.execute("select count(*) from parts where instr(payload, ?)", [text]).fetchone() == (2,)
    assert db.execute("select instr(options_json, ?) > 0 from turns", [text]).fetchone() == (1,)
    assert store.history("turn") == [*turn.input, said]
    assert LogStore(db).turn_response_json("turn") == turn.response_json
    assert LogStore(db).verify() == []


words = st.text(alphabet="ab$", max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.sampled_from(["$", "$r", "$raw"]), inner),
    max_leaves=8,
)


@given(values, st.dictionaries(st.sampled_from("pqr"), words | values))
def test_condensed_is_what_condense_json_makes(payload: Any, replacements: dict[str, Any]) -> None:
    text = condensed(payload, replacements)
    assert json.loads(text) == json.loads(json.dumps(condense_json(payload, replacements)))
    assert uncondense_json(json.loads(text), replacements) == payload


@pytest.mark.parametrize("inside", [False, True])
def test_a_large_payload_is_condensed_where_no_search_is_needed(inside: bool) -> None:
    text = LONG * 1000
    payload = {"text": f"{text}!" if inside else text}
    replacements = {"0.0.text": text}
    assert (len(condensed(payload, replacements)) < 100) is not inside
    assert uncondense_json(json.loads(condensed(payload, replacements)), replacements) == payload
