"""The prompts with their answers side by side, the worst first, as the page shows them."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmproxy.bench.report.differences import Piece, as_it_is, words_differ
from llmproxy.bench.report.measures import judged, passed_share
from llmproxy.bench.results import Prompt, Result, Run, Target

# How many characters of a text, and of all answers together, the page holds, so that a browser still opens it.
TEXT = 8_000
ALL = 12_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One result, for reading. `similarity` is to the reference's answer; None for that itself, or without one."""

    result: Result
    pieces: tuple[Piece, ...]
    similarity: float | None
    calls: tuple[tuple[str, str], ...]
    cut: int


@dataclass(frozen=True, slots=True)
class Column:
    """All answers of one target to a prompt; `badness` from 0 to 1, None where nothing was answered or failed."""

    at: int
    target: Target
    answers: tuple[Answer, ...]
    badness: float | None
    label: str
    state: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One prompt. `number` is its place in the run, from 1."""

    number: int
    prompt: Prompt
    text: str
    cut: int
    columns: tuple[Column, ...]
    badness: float


def conversations(run: Run, reference: Target | None, most: int) -> Iterator[Conversation]:
    """The `most` worst prompts, worst first: calls failed, checks not passed, judged worse, or unlike the reference."""
    results: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in run.results:
        results[result.prompt][result.target].append(result)
    for by_target in results.values():
        for answers in by_target.values():
            answers.sort(key=lambda r: (r.repeat, r.turn_id or ""))
    ranked = sorted(
        ((_badness_of_prompt(run, results[p.turn_id], reference), at) for at, p in enumerate(run.prompts)),
        key=lambda rank: (-rank[0], rank[1]),
    )
    room = ALL
    for badness, at in ranked[:most]:
        prompt = run.prompts[at]
        columns = tuple(_columns(run, results[prompt.turn_id], reference))
        text = prompt.text
        yield Conversation(at + 1, prompt, text[:TEXT], max(len(text) - TEXT, 0), columns, badness)
        room -= sum(len(piece.text) for c in columns for a in c.answers for piece in a.pieces)
        if room < 0:
            return


def badness(result: Result, reference: Result | None) -> float | None:
    """How bad an answer is: 1 for a failed call, else what its verdicts and checks lack of 1, on the average.

    Without either, half of what it has not in common with the reference. None for what was skipped.
    """
    if result.status != "done":
        return 1.0 if result.status == "failed" else None
    worths = [judged(result, "pairwise"), judged(result, "rubric"), passed_share(result)]
    known = [worth for worth in worths if worth is not None]
    if known:
        return 1 - math.fsum(known) / len(known)
    if reference is None or reference is result:
        return 0.0
    before, after = set(reference.text.split()), set(result.text.split())
    return 0.5 * (1 - len(before & after) / max(len(before | after), 1))


def _badness_of_prompt(run: Run, results: Mapping[str, Sequence[Result]], reference: Target | None) -> float:
    base = _reference(results, reference)
    known = [
        bad
        for target in run.targets
        if not target.as_recorded
        for result in results.get(target.name, ())
        if (bad := badness(result, base)) is not None
    ]
    return math.fsum(known) / len(known) if known else 0.0


def _reference(results: Mapping[str, Sequence[Result]], reference: Target | None) -> Result | None:
    answers = results.get(reference.name, ()) if reference else ()
    return next((result for result in answers if result.status == "done"), None)


def _columns(run: Run, results: Mapping[str, Sequence[Result]], reference: Target | None) -> Iterator[Column]:
    base = _reference(results, reference)
    for at, target in enumerate(run.targets):
        if answers := results.get(target.name):
            known = [bad for result in answers if (bad := badness(result, base)) is not None]
            mean = math.fsum(known) / len(known) if known else None
            shown = tuple(_answer(result, base) for result in answers)
            label, state = _label(answers, mean)
            yield Column(at, target, shown, mean, label, state)


def _answer(result: Result, base: Result | None) -> Answer:
    text, calls = result.text, tuple((name, _arguments(text)) for name, text in result.tool_calls)
    cut = max(len(text) - TEXT, 0)
    if result.status != "done" or base is None or base is result:
        return Answer(result, as_it_is(text[:TEXT]), None, calls, cut)
    found = words_differ(base.text[:TEXT], text[:TEXT])
    similarity = found.similarity if text or base.text else None
    return Answer(result, found.pieces, similarity, calls, cut)


def _arguments(text: str) -> str:
    try:
        parsed = json.loads(text)
    except ValueError:
        return text[:TEXT]
    return json.dumps(parsed, indent=2, ensure_ascii=False)[:TEXT]


def _label(answers: Sequence[Result], mean: float | None) -> tuple[str, str]:
    """What a prompt's heading says of a target: a word or its quality, and how it is coloured."""
    failed = sum(result.status == "failed" for result in answers)
    if failed:
        return ("failed" if failed == len(answers) else f"{failed} of {len(answers)} failed"), "bad"
    if mean is None:
        return "skipped", "none"
    if any(result.checks or result.verdicts for result in answers):
        return f"{(1 - mean) * 100:.0f}", "bad" if mean > 0.5 else "good"
    return "answered", "none"
