"""`llmproxy bench`, and its main command: making a run."""

import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click_default_group import DefaultGroup

from llmproxy.cli.benchmark_reports import list_runs, need_the_extra, report, rm, show, show_run
from llmproxy.cli.command import EXIT_FAILED, EXIT_WRONG_USAGE, config_options, fail, load_config
from llmproxy.cli.selecting import selection_options

if TYPE_CHECKING:
    from llmproxy.bench.estimate import Estimate
    from llmproxy.config import Config
    from llmproxy.store.selection import Selection


@click.group(cls=DefaultGroup, default="run", default_if_no_args=False, invoke_without_command=False)
def bench() -> None:
    """Run your own conversations again, against other models, and compare.

    \b
    llmproxy bench --target deepseek/deepseek-chat --as-recorded --sample 50
    llmproxy bench report last --html report.html
    llmproxy bench list

    `llmproxy bench run --help` shows all options of a run.
    """


@bench.command("run")
@config_options
@selection_options
@click.option(
    "--target",
    "-t",
    "targets",
    multiple=True,
    help="UPSTREAM/MODEL[,option=value…], or a YAML file of them. Repeat it. llm/MODEL is any model of `llm`.",
)
@click.option("--as-recorded", is_flag=True, help="The recorded answers too, as the baseline.")
@click.option("--repeat", type=click.IntRange(min=1), help="Ask each prompt so often. Default: 1.")
@click.option("--concurrency", "-j", type=click.IntRange(1, 1000), help="Calls at a time. Default: 4.")
@click.option("--rate", help="Calls begun at most: 5 or 5/s in a second, 60/m in a minute.")
@click.option("--retries", type=click.IntRange(min=0), help="For 429 and 5xx. Default: 4.")
@click.option(
    "--max-cost", type=click.FloatRange(min=0, min_open=True), help="Begin no call that may cost more (dollars)."
)
@click.option("--no-warm-up", is_flag=True, help="Do not open connections before the first call.")
@click.option(
    "--check", "checks", multiple=True, help="For every answer: contains:TEXT, regex:…, json, schema, tools …"
)
@click.option("--checks", "check_file", type=click.Path(path_type=Path), help="YAML file of checks for each prompt.")
@click.option("--judge", help="UPSTREAM/MODEL that compares each answer with the recorded one, in both orders.")
@click.option(
    "--rubric", type=click.Path(path_type=Path), help="Text file: the judge scores by it, and compares nothing."
)
@click.option("--dry-run", is_flag=True, help="Call nothing; show expected tokens and cost.")
@click.option("--resume", metavar="RUN", help="Go on with a run (`last`): what is done is not asked again.")
@click.option("--retry-failed", is_flag=True, help="With --resume: the calls that failed, too.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the report as one page.")
def run(selection: "Selection", config_path: Path | None, database: Path | None, **given: Any) -> None:
    """Run captured turns against other models. Without options that choose some, all of them.

    \b
    llmproxy bench --target openai/gpt-4o-mini --target deepseek/deepseek-chat,temperature=0 --as-recorded
    llmproxy bench --target mock/mock-small --query invoice --sample 100 --repeat 3 -j 8 --max-cost 2
    llm logs --json | jq -r '.[].id' | llmproxy bench --target mock/mock-large --ids -
    llmproxy bench --resume last
    """
    need_the_extra()
    from llmproxy.bench.run_lock import RunIsBusy
    from llmproxy.bench.storage import NoRun
    from llmproxy.config import ConfigError
    from llmproxy.console import set_up_logging
    from llmproxy.preflight import check_recordable

    set_up_logging(40)
    config = load_config(config_path, capture__database=database)
    try:
        check_recordable(config.capture)
        _run(config, selection, given)
    except (ConfigError, ValueError) as exc:
        fail(str(exc), EXIT_WRONG_USAGE)
    except (NoRun, RunIsBusy, sqlite3.Error, OSError) as exc:
        fail(str(exc), EXIT_FAILED)


def _run(config: "Config", selection: "Selection", given: dict[str, Any]) -> None:
    from llmproxy.bench import benchmark, prepare, progress, targets
    from llmproxy.bench.run_lock import locked
    from llmproxy.bench.storage import opened
    from llmproxy.preflight import check_startable

    asked = targets.parse_targets(given["targets"], config)
    with ExitStack() as until_it_ends:
        with opened(config) as store:
            plan = prepare.plan(store, config, asked, selection, given)
            settings = plan.settings
            judge = targets.parse_targets([settings.judge], config) if settings.judge else ()
            config = targets.with_built_in(config, [target.upstream for target in (*plan.targets, *judge)])
            if given["dry_run"]:
                for estimate in benchmark.estimates(config, store, plan.turn_ids, plan.targets, settings.repeat):
                    _show_estimate(estimate, len(plan.turn_ids))
                return
            check_startable(config)
            prepare.check_prices(config, (*plan.targets, *judge), settings)
            run_id = plan.resumes or benchmark.new_run(store, plan.turn_ids, plan.targets, settings).id
            until_it_ends.enter_context(locked(config.capture.database_path, run_id))
            if plan.resumes is not None:
                store.end(run_id, ended=False)
                if given["retry_failed"]:
                    store.forget_failed(run_id)
        ended = progress.run_with_progress(config, run_id, settings)
    show_run(config, run_id, given["html"])
    if ended.stopped == "max_cost":
        fail(
            f"stopped before more than ${settings.max_cost:g} were spent (${ended.spent:.4f} were);"
            f" go on with: llmproxy bench --resume {run_id} --max-cost MORE",
            EXIT_FAILED,
        )
    if ended.stopped is not None or ended.missing:
        fail(f"{ended.missing} answers are missing; go on with: llmproxy bench --resume {run_id}", EXIT_FAILED)


def _show_estimate(estimate: "Estimate", prompts: int) -> None:
    cost = "unknown price" if estimate.cost_usd is None else f"${estimate.cost_usd:.4f}"
    click.echo(
        f"{estimate.target}: {estimate.calls} calls for {prompts} prompts,"
        f" about {estimate.input_tokens} tokens in and {estimate.output_tokens} out, {cost}"
    )
    for reason, count in estimate.skipped.items():
        click.echo(f"  {count} skipped: {reason}")
    for note, count in estimate.notes.items():
        click.echo(f"  {count}: {note}")


for _command in (list_runs, show, report, rm):
    bench.add_command(_command)
