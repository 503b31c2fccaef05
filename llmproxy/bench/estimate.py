"""What a run will take, before it is made: tokens and dollars for each target."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmproxy.bench.measure import recorded
from llmproxy.bench.requests import BenchRequest
from llmproxy.bench.results import Target
from llmproxy.prices import Prices
from llmproxy.store.captured import CapturedTurn
from llmproxy.tokens import Tokens

CHARACTERS_PER_TOKEN = 4
# Of an answer whose length nobody knows.
ASSUMED_OUTPUT = 500


@dataclass(frozen=True, slots=True)
class Expected:
    """The tokens of one call, and its dollars where the price is known."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a target will take. `cost_usd` is None where the price is unknown; `skipped`: reasons, with how often."""

    target: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    skipped: dict[str, int]
    notes: dict[str, int]


def expected(turn: CapturedTurn, target: Target, request: BenchRequest, prices: Prices) -> Expected:
    """What one call will take: the tokens that were reported when it was captured; else one for 4 characters, and for
    the answer what the recorded one was."""
    was = recorded(turn, turn.id, target.name)
    input_tokens = was.input_tokens or math.ceil(len(request.body) / CHARACTERS_PER_TOKEN)
    said = len(was.text) + sum(len(name) + len(arguments) for name, arguments in was.tool_calls)
    output_tokens = was.output_tokens or math.ceil(said / CHARACTERS_PER_TOKEN) or ASSUMED_OUTPUT
    cost = prices.cost(target.upstream, target.model, Tokens(input_tokens, output_tokens))
    return Expected(input_tokens, output_tokens, cost)


def summed(target: str, calls: Iterable[Expected | str | tuple[Expected, tuple[str, ...]]], repeat: int) -> Estimate:
    """A target's calls together. A string is the reason why one is skipped."""
    count = inputs = outputs = 0
    cost: float | None = 0.0
    skipped: dict[str, int] = {}
    notes: dict[str, int] = {}
    for call in calls:
        if isinstance(call, str):
            skipped[call] = skipped.get(call, 0) + 1
            continue
        one, told = call if isinstance(call, tuple) else (call, ())
        count += repeat
        inputs += one.input_tokens * repeat
        outputs += one.output_tokens * repeat
        cost = None if cost is None or one.cost_usd is None else cost + one.cost_usd * repeat
        for note in told:
            notes[note] = notes.get(note, 0) + 1
    return Estimate(target, count, inputs, outputs, cost, skipped, notes)
