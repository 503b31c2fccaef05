"""What the results of a run cost."""

from dataclasses import replace

from llmproxy.bench.results import Prompt, Result, Run, Target
from llmproxy.prices import Prices
from llmproxy.tokens import Tokens


def cost_of(result: Result, target: Target, prompt: Prompt, prices: Prices) -> float | None:
    """The dollars for one result; None where they are not known. A recorded one cost what its own model did."""
    upstream, model = (prompt.upstream, prompt.model) if target.as_recorded else (target.upstream, target.model)
    tokens = Tokens(
        input_tokens=result.input_tokens,
        output_tokens=result.output_tokens,
        reasoning_tokens=result.reasoning_tokens,
        cached_tokens=result.cached_tokens,
        cache_written_tokens=result.cache_written_tokens,
        reported_cost_usd=result.reported_cost_usd,
    )
    return prices.cost(upstream, model, tokens)


def priced(run: Run, prices: Prices) -> Run:
    """The run with the costs of its results, as far as they are known."""
    targets = {target.name: target for target in run.targets}
    prompts = {prompt.turn_id: prompt for prompt in run.prompts}
    return replace(
        run,
        results=tuple(
            replace(result, cost_usd=cost_of(result, targets[result.target], prompts[result.prompt], prices))
            for result in run.results
        ),
    )
