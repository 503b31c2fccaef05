"""`llmproxy export`, through the command line, over what a real proxy captured."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmproxy.cli import main
from tests.inprocess.test_replay import CHAT, captured, chat

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"who": "bob@example.com"}'}}
SECRET = r"[\w.]+@[\w.]+"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("recorded")
    with captured(tmp_path, raw="all") as client:
        client.post(CHAT, json=chat("Write to bob@example.com", stream=True), headers={"x-note": "for bob@example.com"})
        history = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Look Bob up"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ]
        client.post(CHAT, json={"model": "mock", "messages": history, "tools": TOOLS})
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
        client.post(CHAT, json={"model": "mock", "messages": [{"role": "user", "content": [image]}]})
    return tmp_path / "logs.db"


def export(database: Path, *arguments: str, input: str = "") -> Result:
    return CliRunner().invoke(main, ["export", "--database", str(database), *arguments], input=input)


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_fine_tuning_and_evals(recorded: Path) -> None:
    first, second, third = lines(export(recorded, "--format", "openai-finetune"))
    assert first == {
        "messages": [
            {"role": "user", "content": "Write to bob@example.com"},
            {"role": "assistant", "content": "You said: Write to bob@example.com"},
        ]
    }
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert second["messages"][2] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert second["messages"][3] == {"role": "tool", "tool_call_id": "call_1", "content": "found"}
    assert second["tools"] == TOOLS
    assert third["messages"][0]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="
    sample = lines(export(recorded, "--format", "openai-evals"))[0]
    assert sample == {"input": first["messages"][:1], "ideal": first["messages"][1]["content"]}


def test_a_selection_by_ids_and_llms_own_messages(recorded: Path) -> None:
    everything = lines(export(recorded))
    assert [turn["input"][-1]["parts"][0]["type"] for turn in everything] == ["text", "tool_result", "attachment"]
    chosen = lines(export(recorded, "--ids", "-", input=f"{everything[2]['id']} x\n\n{everything[0]['id']}\n"))
    assert chosen == [everything[2], everything[0]]
    assert lines(export(recorded, "--query", "Write", "--model", "mo*")) == everything[:1]


def test_what_llm_wrote_itself_is_left_out_and_told(recorded: Path, tmp_path: Path) -> None:
    database = tmp_path / "logs.db"
    shutil.copy(recorded, database)
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("insert into turns (id, model) values ('llms', 'm')")
    (first, *_) = lines(export(database))
    done = export(database, "--ids", "-", input=f"llms\n{first['id']}\n")
    assert lines(done) == [first]
    assert "1 left out: written by llm itself" in done.stderr


@pytest.mark.parametrize("command", [["stats"], ["stats", "--by", "model"], ["bench", "list"], ["bench", "rm", "x"]])
@pytest.mark.parametrize("content", [None, b"notes " * 1000], ids=["folder", "no database"])
def test_what_is_no_database_is_told_in_a_line(tmp_path: Path, command: list[str], content: bytes | None) -> None:
    database = tmp_path / "notes"
    if content is None:
        database.mkdir()
    else:
        database.write_bytes(content)
    done = CliRunner().invoke(main, [*command, "--database", str(database)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    assert done.stderr.count("\n") == 1


def test_raw_is_to_the_byte(recorded: Path) -> None:
    passed = lines(export(recorded, "--format", "raw"))[0]
    assert json.loads(passed["request"]["body"])["stream"] is True
    assert passed["response"]["body"].endswith("data: [DONE]\n\n")
    assert sum(length for _, length in passed["response"]["pieces"]) == len(passed["response"]["body"])


@pytest.mark.parametrize("format", ["openai-finetune", "openai-evals", "llm", "raw", "har"])
def test_what_is_redacted_is_nowhere(recorded: Path, tmp_path: Path, format: str) -> None:
    plain = export(recorded, "--format", format, "--limit", "3")
    assert "bob@example.com" in plain.stdout or format == "har"
    redacted = export(recorded, "--format", format, "--redact", SECRET, "--redact", "Bo[b]")
    assert redacted.exit_code == 0 and "[redacted]" in redacted.stdout
    # Not in pieces either, as the events of a stream would have it.
    assert not any(word in redacted.stdout for word in ("example.com", "bob@", "Bob"))


def test_har(recorded: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.har"
    done = export(recorded, "--format", "har", "--output", str(output))
    assert done.exit_code == 0 and "3 turns exported to" in done.stderr
    assert output.stat().st_mode & 0o777 == 0o600
    log = json.loads(output.read_text())["log"]
    assert (log["version"], len(log["entries"])) == ("1.2", 3)
    entry = log["entries"][0]
    assert entry["request"]["url"].startswith("http://127.0.0.1:") and entry["request"]["url"].endswith(CHAT)
    assert json.loads(entry["request"]["postData"]["text"])["model"] == "mock"
    assert entry["response"]["content"]["text"].endswith("data: [DONE]\n\n")
    assert entry["time"] == pytest.approx(sum(entry["timings"].values()))
    nothing = export(recorded, "--format", "har", "--model", "none")
    assert json.loads(nothing.stdout)["log"]["entries"] == []


def test_what_cannot_be_said_is_left_out_and_told(tmp_path: Path) -> None:
    with captured(tmp_path) as client:
        file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}}
        client.post(CHAT, json={"model": "mock", "messages": [{"role": "user", "content": [file]}]})
    done = export(tmp_path / "logs.db", "--format", "openai-finetune")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1 left out: it has an attachment that is no image" in done.stderr
    assert "1 without their bytes" in export(tmp_path / "logs.db", "--format", "raw").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--redact", "("], 2, "is no regular expression"),
        (["--redact", "x*"], 2, "matches the empty text"),
        (["--since", "yesterday"], 2, "is no time"),
        (["--database", "/nowhere/logs.db"], 1, "there is no database yet"),
        (["--database", "/"], 1, "/: cannot be opened"),
    ],
)
def test_mistakes_are_told(recorded: Path, arguments: list[str], code: int, told: str) -> None:
    done = export(recorded, *arguments)
    assert done.exit_code == code and told in done.stderr
