"""The tables of benchmark runs, beside the turns in the same file.

Apart from the store's own migrations, since they are made when the first run is: a database of somebody who never
benchmarks has none of them.
"""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("llmproxy_bench")


@migrations()
def m001_bench(db: Database) -> None:
    db.execute(
        "create table llmproxy_bench_runs (id text primary key, started_utc text, ended_utc text, settings text)"
    )
    db.execute(
        """
        create table llmproxy_bench_targets (
            run_id text references llmproxy_bench_runs(id),
            position integer,
            name text,
            upstream text,
            model text,
            api text,
            options text,
            as_recorded integer,
            primary key (run_id, position)
        )
        """
    )
    db.execute(
        """
        create table llmproxy_bench_prompts (
            run_id text references llmproxy_bench_runs(id),
            position integer,
            turn_id text,
            upstream text,
            model text,
            text text,
            messages integer,
            primary key (run_id, position)
        )
        """
    )
    db.execute(
        """
        create table llmproxy_bench_results (
            run_id text references llmproxy_bench_runs(id),
            prompt text,
            target text,
            repeat integer,
            status text,
            error text,
            turn_id text,
            http_status integer,
            attempts integer,
            started_utc text,
            first_byte_ms real,
            first_token_ms real,
            duration_ms real,
            input_tokens integer,
            output_tokens integer,
            reasoning_tokens integer,
            cached_tokens integer,
            cache_written_tokens integer,
            reported_cost_usd real,
            finish_reason text,
            text text,
            tool_calls text,
            checks text,
            verdicts text,
            notes text,
            primary key (run_id, prompt, target, repeat)
        )
        """
    )


TABLES = ("llmproxy_bench_results", "llmproxy_bench_prompts", "llmproxy_bench_targets", "llmproxy_bench_runs")
