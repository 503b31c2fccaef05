"""One conversation in three APIs: recorded alike, and translated from each into the others by a benchmark."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llmproxy.bench.results import Run
from llmproxy.bench.storage import opened
from llmproxy.cli import main
from llmproxy.config import load
from llmproxy.store.captured import CapturedTurn, read_turn
from tests.inprocess.speakers import APIS, ASK, SCRIPT
from tests.proxy import serving

CONFIG = """
upstreams:
  mock: {app: "llmproxy.inprocess.mock:create_app", options: {chunk_delay: 0}}
"""
NAMES = [speak.api for speak in APIS]
# What each turn of a captured conversation is, in the order they are asked.
KINDS = ("call", "answer", "script")


def said(messages: Sequence[Message]) -> list[Any]:
    """What messages say, without what each provider adds: ids and metadata."""
    found: list[Any] = []
    for message in messages:
        for part in message.parts:
            match part:
                case TextPart():
                    found.append((message.role, part.text))
                case ReasoningPart():
                    found.append((message.role, "thinks", part.text))
                case ToolCallPart():
                    found.append((message.role, part.name, part.arguments))
                case ToolResultPart():
                    found.append((message.role, "result", part.output))
                case _:
                    raise AssertionError(part)
    return found


def meaning(turn: CapturedTurn) -> dict[str, Any]:
    """What a turn is in any API."""
    return {
        "input": said(turn.input),
        "output": said(turn.output),
        "tools": [(tool.name, tool.input_schema) for tool in turn.tools],
        "tokens": (turn.input_tokens, turn.output_tokens),
        "models": (turn.model, turn.resolved_model),
        "status": turn.status,
    }


class Home:
    """A database with the same conversation in three APIs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "logs.db"
        self.file = folder / "config.yaml"
        self.file.write_text(CONFIG)

    def record(self) -> None:
        with serving(self.folder, "--config", str(self.file)) as program:
            for at, speak in enumerate(APIS):
                speaker = speak(program.url)
                with speaker.client:
                    called = speaker.ask(ASK, tools=True, stream=True)
                    speaker.ask(ASK, after=called, tools=True)
                    speaker.ask("Hello", mock=SCRIPT, stream=bool(at % 2))
            program.exchanges(len(APIS) * len(KINDS))
            assert program.stop() == 0

    def turns(self) -> Mapping[tuple[str, str], CapturedTurn]:
        """What was recorded, by API and kind."""
        sql = "select turn_id from llmproxy_exchanges where client is null or client not like 'bench:%' order by id"
        with closing(sqlite3.connect(self.database)) as connection:
            found = [self.turn(turn_id) for (turn_id,) in connection.execute(sql)]
        assert [turn.api for turn in found] == [name for name in NAMES for _ in KINDS]
        return {(str(turn.api), KINDS[at % len(KINDS)]): turn for at, turn in enumerate(found)}

    def turn(self, turn_id: str | None) -> CapturedTurn:
        with closing(sqlite3.connect(self.database)) as connection:
            turn = read_turn(connection, turn_id or "")
        assert turn is not None
        return turn

    def bench(self, turn_ids: Sequence[str], apis: Sequence[str]) -> Run:
        targets = [argument for api in apis for argument in ("--target", f"mock/mock,api={api},name={api}")]
        common = ["--config", str(self.file), "--database", str(self.database)]
        done = CliRunner().invoke(
            main, ["bench", "--ids", "-", "--no-warm-up", *targets, *common], input="\n".join(turn_ids)
        )
        assert done.exit_code == 0, (done.output, done.exception)
        with opened(load(self.file, {"capture": {"database": self.database}})) as storage:
            return storage.read(storage.find(None))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(folder))
        home = Home(folder)
        home.record()
        yield home


@pytest.mark.parametrize("kind", KINDS)
def test_the_captured_turns_are_alike(home: Home, kind: str) -> None:
    turns = home.turns()
    expected = meaning(turns["chat.completions", kind])
    assert expected["input"][:2] == [("system", "Be brief."), ("user", "Hello" if kind == "script" else ASK)]
    assert (
        expected["output"]
        == {
            "call": [("assistant", "get_weather", {"city": "text"})],
            "answer": [("assistant", "The tool said: sunny")],
            "script": [
                ("assistant", "thinks", "Weather is asked for."),
                ("assistant", "Let me see."),
                ("assistant", "get_weather", {"city": "Paris", "days": 3}),
            ],
        }[kind]
    )
    for api in NAMES:
        assert meaning(turns[api, kind]) == expected


def test_the_first_turn_is_the_parent_of_the_second_in_each(home: Home) -> None:
    for api in NAMES:
        first, second = (home.turns()[api, kind] for kind in ("call", "answer"))
        assert first.thread_id == second.thread_id == first.id


def test_a_benchmark_asks_the_same_in_any_api_and_back(home: Home) -> None:
    turns = home.turns()
    sources = [turns[api, kind] for api in NAMES for kind in ("call", "answer")]
    run = home.bench([turn.id for turn in sources], NAMES)
    assert len(run.results) == len(sources) * len(NAMES)
    asked = {turn.id: turn for turn in sources}
    there = []
    for result in run.results:
        assert (result.status, result.error, result.notes) == ("done", None, ())
        source, answered = asked[result.prompt], home.turn(result.turn_id)
        assert answered.api == result.target and meaning(answered) == meaning(source)
        there.append(answered.id)

    # Each of the answers is a prompt again: what went to another API comes back as it was.
    back = home.bench(there, ["chat.completions"])
    assert len(back.results) == len(there)
    for result in back.results:
        assert (result.status, result.error) == ("done", None)
        answered = home.turn(result.turn_id)
        kind = "answer" if any(message.role == "tool" for message in answered.input) else "call"
        original = turns["chat.completions", kind]
        assert answered.api == "chat.completions" and meaning(answered) == meaning(original)
        assert answered.options["max_tokens"] == original.options["max_tokens"] == 100
