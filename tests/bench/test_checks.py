"""Checks of answers, and the file that says which are made."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmproxy.bench.check_file import CheckFile, read_check_file
from llmproxy.bench.checks import Asked, CheckSpec, WrongCheck, default_checks, parse_check, run_checks
from llmproxy.bench.results import Prompt, Result

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
WEATHER = ("weather", '{"city": "Bonn", "days": 2}')


def answer(text: str = "", *calls: tuple[str, str]) -> Result:
    return Result("p", "t", 0, "done", text=text, tool_calls=calls)


def asked(text: str = "", *calls: tuple[str, str], schema: Any = None) -> Asked:
    return Asked(answer(text, *calls), schema)


@pytest.mark.parametrize(
    ("check", "result", "of", "passed", "score"),
    [
        ("exact", answer(" 42\n"), asked("42"), True, 1),
        ("exact", answer("43"), asked("42"), False, 0),
        ("exact:43", answer("43"), asked("42"), True, 1),
        ("exact", answer("43"), Asked(None, None), None, None),
        ("contains:Paris", answer("It is Paris."), asked(), True, 1),
        ("contains:paris", answer("It is Paris."), asked(), False, 0),
        ("icontains:paris", answer("It is PARIS."), asked(), True, 1),
        ("regex:^\\d+$", answer("42"), asked(), True, 1),
        ("regex:a:b", answer("xa:b"), asked(), True, 1),
        ("regex:^\\d+$", answer("n42"), asked(), False, 0),
        ("json", answer('```json\n{"n": 1}\n```'), asked(), True, 1),
        ("json", answer('Here: {"n": 1}'), asked(), False, 0),
        ("schema", answer('{"n": 1}'), asked(schema=SCHEMA), True, 1),
        ("schema", answer('{"n": "1"}'), asked(schema=SCHEMA), False, 0),
        ("schema", answer("no"), asked(schema=SCHEMA), False, 0),
        ("schema", answer("1"), asked(schema={"type": "nonsense"}), None, None),
        ("schema", answer("{}"), asked(), None, None),
        ("tools", answer("", ("weather", '{"days":2,"city":"Bonn"}')), asked("", WEATHER), True, 1),
        ("tools", answer("", WEATHER, WEATHER), asked("", WEATHER), False, 0.5),
        ("tools", answer("Rain."), asked("", WEATHER), False, 0),
        ("tools", answer("Rain."), asked("Rain."), True, 1),
        ("similarity", answer("the cat sat"), asked("the cat sat"), True, 1),
        ("similarity", answer("a dog"), asked("the cat sat"), False, 0),
        ("similarity:0.5", answer("the cat ran"), asked("the cat sat"), True, pytest.approx(2 / 3, abs=1e-3)),
        ("similarity", answer("x"), Asked(None, None), None, None),
    ],
)
def test_checks(check: str, result: Result, of: Asked, passed: bool | None, score: Any) -> None:
    (made,) = run_checks([parse_check(check)], result, of)
    assert (made.name, made.passed, made.score) == (check, passed, score)
    assert bool(made.detail) == (passed is not True)


def test_only_answers_are_checked() -> None:
    failed = Result("p", "t", 0, "failed", error="no")
    assert run_checks([CheckSpec("json")], failed, asked("x")) == ()


def test_what_is_checked_where_nothing_is_said() -> None:
    assert default_checks(asked("text", WEATHER, schema=SCHEMA)) == (
        CheckSpec("schema"),
        CheckSpec("tools"),
        CheckSpec("similarity"),
    )
    assert default_checks(Asked(None, None)) == ()


def test_a_schema_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    spec = parse_check(f"schema:{tmp_path}/s.json")
    (made,) = run_checks([spec], answer('{"n": "x"}'), asked())
    assert (made.name, made.passed) == ("schema", False) and "$.n" in made.detail


@pytest.mark.parametrize("text", ["nonsense", "contains", "regex:(", "similarity:2", "schema:/nowhere.json", "regex:"])
def test_wrong_checks_are_refused(text: str) -> None:
    with pytest.raises(WrongCheck):
        parse_check(text)


FILE = """
checks: [similarity]
prompts:
  - turn: 01kabc
    checks: ["exact:42"]
  - text: (?i)capital of france
    checks: ["contains:Paris", similarity]
"""


def test_a_file_says_which_prompts_are_checked_how(tmp_path: Path) -> None:
    (tmp_path / "checks.yaml").write_text(FILE)
    file = read_check_file(tmp_path / "checks.yaml", ["json"])
    by_id, by_text = Prompt("01kabcdef", "m", "what?", 1), Prompt("01x", "m", "The Capital of France?", 1)
    assert [spec.name for spec in file.checks_of(by_id, asked())] == ["similarity", "json", "exact:42"]
    assert [spec.name for spec in file.checks_of(by_text, asked())] == ["similarity", "json", "contains:Paris"]
    assert CheckFile.model_validate(file.model_dump()) == file
    assert CheckFile().checks_of(by_id, asked("x")) == (CheckSpec("similarity"),)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("checks: [nonsense]", "nonsense"),
        ("prompts: [{checks: [json]}]", "turn: ID or text: PATTERN"),
        ('prompts: [{text: "(", checks: [json]}]', "is no regular expression"),
        ("check: [json]", "check"),
        ("{", "is not YAML"),
    ],
)
def test_a_wrong_file_is_told_by_its_place(tmp_path: Path, content: str, place: str) -> None:
    (tmp_path / "checks.yaml").write_text(content)
    with pytest.raises(WrongCheck, match=place):
        read_check_file(tmp_path / "checks.yaml", [])
