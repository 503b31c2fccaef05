"""What the in-process transport adds to an app's latency, beside HTTP to the same app."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import processes, tables
from benchmarks.contestants import Running, Surroundings, direct, llmproxy
from benchmarks.scenarios import FOREIGN, SCENARIOS, Figures, Scenario, run

APP = "benchmarks.app_upstream:app"
OVER_HTTP, IN_PROCESS = "llmproxy, app over HTTP", "llmproxy, app in process"
# One connection, and streams few enough that nobody queues: capacity is measured elsewhere.
LOADS = (SCENARIOS["json1"], Scenario("paced32", "32 streams, a chunk every 10 ms", "paced", 32, warmup=1.5))
# What a median is taken of, by the kind of load.
LATENCIES = {"json": {"p50": "p50"}, "paced": {"chunk_p50": "chunk p50", "ttft_p50": "TTFT p50"}}


@contextmanager
def _app_over_http(surroundings: Surroundings) -> Iterator[Running]:
    """The app under uvicorn, beside the load: where `direct` asks it, and llmproxy over HTTP."""
    port = processes.free_port()
    log = surroundings.folder / "app.log"
    command = [sys.executable, "-m", "uvicorn", APP, "--host", "127.0.0.1", "--port", str(port), "--lifespan", "off"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    process = processes.start(command, log, surroundings.places.load, surroundings.environment)
    with processes.running(process):
        processes.wait_for_port(process, log, port)
        yield Running("app", port, process)


def measure(surroundings: Surroundings, *, rounds: int, seconds: float) -> list[list[Figures]]:
    """For each load: the app asked directly, by llmproxy over HTTP, and by llmproxy in its own process."""
    contestants = [direct(), llmproxy(OVER_HTTP), llmproxy(IN_PROCESS, app=APP)]
    with _app_over_http(surroundings) as served:
        beside = dataclasses.replace(surroundings, upstream=served.port)
        return [run(load, contestants, beside, served, rounds=rounds, seconds=seconds) for load in LOADS]


def comparison(measured: Sequence[Sequence[Figures]]) -> str:
    """A table of the medians, of what is added to `direct`, and of the two ways ÷ each other."""
    rows = []
    for base, over_http, in_process in measured:
        disturbed = any(one.median("foreign") > FOREIGN for one in (base, over_http, in_process))
        for latency, says in LATENCIES[base.scenario.mode].items():
            alone, http, inside = (one.median(latency) for one in (base, over_http, in_process))
            rows.append(
                [
                    f"{base.scenario.name}: {says} µs" + (" (disturbed)" if disturbed else ""),
                    *(tables.number(value) for value in (alone, http, inside, http - alone, inside - alone)),
                    tables.number(inside / http, 2),
                ]
            )
    header = ["", "direct", "over HTTP", "in process", "added over HTTP", "added in process", "in process ÷ HTTP"]
    return tables.table(header, rows)
