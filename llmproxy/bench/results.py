"""What a benchmark run found: the values that running produces, the store keeps, and reports are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What prompts are run against: `model` at `upstream`, with `options` over the recorded ones.

    `name` is the user's word for it and unique in a run (``deepseek/deepseek-chat``). For `as_recorded`, the baseline,
    it is ``as recorded``, and nothing is called.
    """

    name: str
    upstream: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    as_recorded: bool = False
    api: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A captured turn that is run again. `text` is its last user message, `messages` how many its input has.

    `upstream` is where it went when it was captured; None where it did not go through llmproxy.
    """

    turn_id: str
    model: str
    text: str
    messages: int
    upstream: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one answer. `passed` is None where it could not be made, and `detail` says why.

    `score` lies between 0 and 1 (a similarity); for yes or no it is 1 or 0.
    """

    name: str
    passed: bool | None
    score: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's opinion of one answer, between 0 and 1.

    Pairwise, against the baseline, both orders asked: 1 is better than the baseline in both, 0 worse in both, 0.5 a
    tie or the two orders disagree. By a rubric: its score, scaled. `turn_ids` are the judge's own captured turns.
    """

    judge: str
    kind: Literal["pairwise", "rubric"]
    score: float | None
    reason: str = ""
    turn_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """One answer of one target to one prompt, or why there is none.

    - `status`: ``done``, ``failed`` (`error` says how) or ``skipped`` (`error` is the reason).
    - `text`: what was said, for reading; `tool_calls`: (name, arguments as JSON text) in order.
    - times in milliseconds from the start of the call; tokens as reported, None where not; `cost_usd` None where the
      price is unknown. `input_tokens` hold the cached ones, `output_tokens` the reasoning.
    - `cache_written_tokens`: those of the input that were written into the provider's cache; `reported_cost_usd`: what
      the provider itself says that it cost.
    - `notes`: what of the prompt this target was not given, because its API has no word for it (an option, say).
    """

    prompt: str
    target: str
    repeat: int
    status: Literal["done", "failed", "skipped"]
    error: str | None = None
    turn_id: str | None = None
    http_status: int | None = None
    attempts: int = 1
    started_utc: str | None = None
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    finish_reason: str | None = None
    text: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    checks: tuple[Check, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    cache_written_tokens: int | None = None
    reported_cost_usd: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens a second between the first token and the end; None where either is unknown."""
        if self.output_tokens is None or self.first_token_ms is None or self.duration_ms is None:
            return None
        seconds = (self.duration_ms - self.first_token_ms) / 1000
        return self.output_tokens / seconds if seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Run:
    """A benchmark run with all it found. `ended_utc` is None while it goes on, or where it was broken off."""

    id: str
    started_utc: str
    ended_utc: str | None
    settings: Mapping[str, Any]
    targets: tuple[Target, ...]
    prompts: tuple[Prompt, ...]
    results: tuple[Result, ...]
