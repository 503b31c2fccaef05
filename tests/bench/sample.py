"""A run to look at: what three models of different speed, price and quality might have answered, from a seed.

python -m tests.bench.sample report.html [PROMPTS [SEED]]
"""

import json
import math
import random
import sys
from pathlib import Path

from llmproxy.bench.results import Check, Prompt, Result, Run, Target, Verdict
from tests.bench.sample_texts import CITIES, HOSTILE, SUBJECTS, Subject

RECORDED = Target("as recorded", "openai", "gpt-4.1", as_recorded=True)
TARGETS = (
    RECORDED,
    Target("deepseek/deepseek-chat", "deepseek", "deepseek-chat", {"temperature": 0}),
    Target("openai/gpt-4.1-mini", "openai", "gpt-4.1-mini"),
    Target("local/smollm2", "local", "smollm2-135m-instruct"),
)
# First token and one token, in milliseconds; dollars for a million tokens in and out; how good, how often it fails.
NATURES: dict[str, tuple[float, float, float | None, float | None, float, float]] = {
    "as recorded": (620, 14, 2.0, 8.0, 0.93, 0.0),
    "deepseek/deepseek-chat": (1350, 22, 0.27, 1.1, 0.9, 0.02),
    "openai/gpt-4.1-mini": (380, 8, 0.4, 1.6, 0.82, 0.03),
    "local/smollm2": (95, 31, None, None, 0.38, 0.06),
}
FAILURES = (
    (429, "HTTP 429: Rate limit reached for requests. Gave up after 4 attempts."),
    (503, "HTTP 503: The engine is currently overloaded, please try again later."),
    (None, "upstream_timeout: nothing came for 60 s"),
)


def sample_run(seed: int = 7, prompts: int = 40, repeats: int = 2, *, lengthen: int = 1, ended: bool = True) -> Run:
    """A run of four targets, the recorded answers among them. `lengthen` repeats each answer's text."""
    dice = random.Random(seed)
    asked: list[Prompt] = []
    results: list[Result] = []
    for at in range(prompts):
        subject = SUBJECTS[at % len(SUBJECTS)]
        city = CITIES[(at // len(SUBJECTS) + at) % len(CITIES)]
        prompt = Prompt(f"01k{at:05d}prompt{seed}", "gpt-4.1", subject.ask.replace("Lisbon", city), 1 + 2 * (at % 4))
        asked.append(prompt)
        hardness = dice.random()
        for target in TARGETS:
            for repeat in range(1 if target.as_recorded else repeats):
                if target.name == "local/smollm2" and at % 20 == 19:
                    why = "image input: the target's API has no attachments"
                    results.append(Result(prompt.turn_id, target.name, repeat, "skipped", error=why))
                else:
                    results.append(_result(dice, prompt, subject, city, target, repeat, hardness, lengthen))
    settings = {
        "query": "travel OR sql OR python", "since": "2025-05-01", "sample": prompts, "seed": seed, "repeat": repeats,
        "concurrency": 8, "as_recorded": True, "judge": "gpt-4.1", "retries": 3,
    }  # fmt: skip
    end = "2025-06-03T09:26:41Z" if ended else None
    return Run("01jwsample7", "2025-06-03T09:14:02Z", end, settings, TARGETS, tuple(asked), tuple(results))


def _result(
    dice: random.Random, prompt: Prompt, subject: Subject, city: str, target: Target, repeat: int, hardness: float,
    lengthen: int,
) -> Result:  # fmt: skip
    first, each, price_in, price_out, quality, failing = NATURES[target.name]
    if dice.random() < failing:
        status, error = dice.choice(FAILURES)
        return Result(prompt.turn_id, target.name, repeat, "failed", error, f"{dice.getrandbits(40):x}", status, 4)
    good = dice.random() < quality ** (0.4 + 1.2 * hardness)
    text = _answer(dice, subject, good, target).replace("Lisbon", city)
    text = "\n\n".join([text] * lengthen)
    if target.name == "local/smollm2" and prompt.turn_id.startswith("01k00003"):
        text = HOSTILE
    output = max(len(text) // 4, 8) + (24 if subject.tool else 0)
    entered = 180 * prompt.messages + len(prompt.text) // 4
    slow = math.exp(dice.gauss(0, 0.22)) * (1 if dice.random() > 0.04 else 3.5)
    began = first * slow * (1 + 0.15 * prompt.messages)
    ended = began + each * output * math.exp(dice.gauss(0, 0.1))
    cost = None
    if price_in is not None and price_out is not None:
        cost = (entered * price_in + output * price_out) / 1e6
    return Result(
        prompt.turn_id,
        target.name,
        repeat,
        "done",
        turn_id=f"01k{dice.getrandbits(60):x}",
        http_status=200,
        attempts=2 if dice.random() < 0.04 else 1,
        started_utc="2025-06-03T09:15:00Z",
        first_byte_ms=began * 0.92,
        first_token_ms=began,
        duration_ms=ended,
        input_tokens=entered,
        output_tokens=output,
        reasoning_tokens=output // 3 if target.name.startswith("deepseek") and hardness > 0.6 else None,
        cached_tokens=entered // 2 if prompt.messages > 3 and price_in else None,
        cost_usd=cost,
        finish_reason="tool_calls" if subject.tool and good else "stop" if dice.random() > 0.02 else "length",
        text="" if subject.tool and good else text,
        tool_calls=((subject.tool, json.dumps({"city": city, "days": 3})),) if subject.tool and good else (),
        checks=_checks(dice, subject, good, target),
        verdicts=() if target.as_recorded else (_verdict(dice, good, target),),
    )


def _answer(dice: random.Random, subject: Subject, good: bool, target: Target) -> str:
    """The recorded words for the baseline; others say some of them otherwise, leave out, or go wrong."""
    text = subject.answer if good else subject.wrong
    if target.as_recorded:
        return text
    for word, other in subject.words.items():
        if dice.random() < 0.5:
            text = text.replace(word, other)
    if target.name.startswith("deepseek") and dice.random() < 0.4:
        text += "\n\nLet me know if you would like more detail on any of these points!"
    if target.name.startswith("local") and dice.random() < 0.5:
        sentences = text.split(". ")
        text = ". ".join(sentences[: max(1, len(sentences) // 2)])
    return text


def _checks(dice: random.Random, subject: Subject, good: bool, target: Target) -> tuple[Check, ...]:
    close = 1.0 if target.as_recorded else round(min(1, max(0, dice.gauss(0.82 if good else 0.4, 0.1))), 3)
    checks = [Check("similarity", close >= 0.6, close, "at least 0.6")]
    if subject.contains:
        checks.append(Check(f"contains {subject.contains!r}", good, float(good), "" if good else "not in the answer"))
    if subject.tool:
        says = "" if good else f"no call; recorded: {subject.tool}"
        checks.append(Check("same tool calls", good, float(good), says))
    if subject.json:
        parses = good or dice.random() < 0.5
        checks.append(Check("JSON parses", parses, float(parses), "" if parses else "line 1 column 1: Expecting value"))
        checks.append(Check("JSON schema", good if parses else None, None, "" if parses else "nothing to check"))
    return tuple(checks)


def _verdict(dice: random.Random, good: bool, target: Target) -> Verdict:
    if dice.random() < 0.02:
        return Verdict("gpt-4.1", "pairwise", None, "The judge gave no verdict that could be read.")
    better = dice.random()
    score = (1.0 if better > 0.8 else 0.5) if good else (0.0 if better > 0.2 else 0.5)
    reason = {
        1.0: "Both orders prefer the new answer: as correct, and shorter.",
        0.5: "Both answers solve it; the two orders disagree on which is better.",
        0.0: "The recorded answer is right, the new one leaves out or misstates what was asked.",
    }[score]
    return Verdict("gpt-4.1", "pairwise", score, reason, (f"01j{dice.getrandbits(40):x}",))


def main(file: str, prompts: str = "40", seed: str = "7") -> None:
    from llmproxy.bench.report.html import page

    Path(file).write_text(page(sample_run(int(seed), int(prompts))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
