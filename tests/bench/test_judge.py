"""The judge's questions, and what is made of its replies."""

import pytest

from llmproxy.bench import judge
from llmproxy.bench.results import Result
from tests.bench.bench import Bench, bench
from tests.bench.test_requests import turn
from tests.store.conversations import assistant, call, result, user

__all__ = ["bench"]

OURS, THEIRS = '{"winner": "1", "reason": "a"}', '{"winner": "2", "reason": "b"}'
TIE = '{"winner": "tie"}'


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [
        (OURS, THEIRS, 1.0),
        (THEIRS, OURS, 0.0),
        (OURS, OURS, 0.5),
        (THEIRS, THEIRS, 0.5),
        (TIE, THEIRS, 0.5),
        (TIE, TIE, 0.5),
        (f"Let me think {{about}} it.\n```json\n{OURS}\n```", THEIRS, 1.0),
        ('{"winner": 1}', '{"winner": "Answer 2"}', 1.0),
        ("the first", THEIRS, None),
        (OURS, None, None),
        (OURS, "[1]", None),
    ],
)
def test_better_is_who_is_better_in_both_orders(first: str, second: str | None, score: float | None) -> None:
    assert judge.verdict("j", [first, second], None).score == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [('{"score": 7, "reason": "x"}', 0.7), ('{"score": 0}', 0.0), ('{"score": 11}', None), ("7", None), (None, None)],
)
def test_a_rubrics_score_is_scaled(reply: str | None, score: float | None) -> None:
    found = judge.verdict("j", [reply], "be kind")
    assert (found.kind, found.score) == ("rubric", score)


def test_the_judge_sees_the_conversation_and_both_answers_in_both_orders() -> None:
    asked = turn(user("Weather in Bonn?"), assistant("", call("c", "weather", city="Bonn")), result("c", "12 degrees"))
    ours = Result("p", "t", 0, "done", text="ours", tool_calls=(("f", "{}"),))
    theirs = Result("p", "b", 0, "done", text="theirs")
    first, second = judge.questions(asked, ours, theirs, None)
    for question in (first, second):
        assert 'calls the tool weather with {"city": "Bonn"}' in question and "12 degrees" in question
        assert "[calls the tool f with {}]" in question
    assert first.index("ours") < first.index("theirs") and second.index("theirs") < second.index("ours")
    assert judge.questions(asked, ours, None, None) == []
    (by_rubric,) = judge.questions(asked, ours, None, "Be kind.")
    assert "Be kind." in by_rubric and "theirs" not in by_rubric


def test_a_rubric_judges_the_recorded_answer_too(bench: Bench) -> None:
    bench.record(lambda r: r.exchange([user("Say hello")], assistant("Hello.")))
    (bench.home / "rubric.txt").write_text("It greets.")
    bench("-t", "up/echo", "--as-recorded", "--judge", "up/judge", "--rubric", str(bench.home / "rubric.txt"))
    verdicts = [verdict for found in bench.run().results for verdict in found.verdicts]
    assert [(verdict.kind, verdict.score, verdict.reason) for verdict in verdicts] == [("rubric", 0.7, "fine")] * 2
    assert all(len(verdict.turn_ids) == 1 for verdict in verdicts)
