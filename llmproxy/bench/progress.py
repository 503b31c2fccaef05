"""A run with a progress bar on standard error."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmproxy.bench.benchmark import Ended, benchmark
from llmproxy.bench.results import Result
from llmproxy.bench.settings import Settings
from llmproxy.bench.storage import opened
from llmproxy.config import Config


def run_with_progress(config: Config, run_id: str, settings: Settings) -> Ended:
    """Make the calls of a run that are not made yet, and show how far it is. Raises what `benchmark` does."""
    with opened(config) as store:
        run = store.read(run_id, results=False)
        live = [target for target in run.targets if not target.as_recorded]
        names = {target.name for target in live}
        total = len(run.prompts) * len(live) * settings.repeat
        done = sum(key[1] in names for key in store.keys(run_id))
    console = Console(stderr=True)
    console.print(
        f"run {run_id}: {len(run.prompts)} prompts x {len(live)} targets x {settings.repeat}", highlight=False
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed, cost = 0, 0.0
    with Progress(*columns, TextColumn("{task.fields[more]}"), console=console, transient=True) as progress:
        task = progress.add_task("answers", total=total, completed=done, more="")

        def tell(result: Result) -> None:
            nonlocal failed, cost
            failed += result.status == "failed"
            cost += result.cost_usd or 0.0
            more = f"{failed} failed  " * bool(failed) + f"${cost:.4f}" * bool(cost)
            if result.verdicts:
                progress.update(task, description="judging", more=more)
            else:
                progress.update(task, advance=1, more=more)

        return benchmark(config, run_id, settings, tell)
