"""The scenarios that load contestants: what is sent, in which turns, and what is read."""

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.contestants import Contestant, Running, Surroundings, all_serving
from benchmarks.load import PATIENCE_SECONDS, Load, Result
from benchmarks.processes import BenchmarkError

WARMUP = ("json", "stream")
WARMUP_SECONDS = 0.5
# A run that ends late by more than this hangs.
LATE_SECONDS = 30.0
# A round in which other programs had a larger share of the measured CPUs is repeated, so many times in all.
FOREIGN = 0.05
TRIES = 4


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the load sends; `says` tells it in a line."""

    name: str
    says: str
    mode: str
    connections: int
    body_bytes: int = 1000
    warmup: float = 0.3

    def load(self, port: int, seconds: float) -> Load:
        return Load(port, self.mode, self.connections, self.body_bytes, self.warmup, seconds)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("json", "32 connections, 1 KB body, 1.2 KB answer", "json", 32),
        Scenario("json1", "one connection, 1 KB body, 1.2 KB answer", "json", 1),
        Scenario("big", "32 connections, 200 KB body", "json", 32, body_bytes=200_000),
        Scenario("stream", "32 connections, 100 chunks as fast as they go", "stream", 32),
        Scenario("paced200", "200 streams, a chunk every 10 ms", "paced", 200, warmup=1.5),
        Scenario("paced500", "500 streams, a chunk every 10 ms", "paced", 500, warmup=1.5),
    )
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one contestant. Times are microseconds.

    - `cpu_per_request`, `cpu_per_chunk`: of the serving processes.
    - `proxy_busy`, `load_busy`, `ingester_busy`: the share of one CPU that they used.
    - `foreign`: the share of the measured CPUs that went to anything else.
    """

    result: Result
    cpu_per_request: float
    cpu_per_chunk: float
    proxy_busy: float
    load_busy: float
    ingester_busy: float
    foreign: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The rounds of one contestant in one scenario."""

    scenario: Scenario
    contestant: str
    rounds: Sequence[Round]

    def median(self, figure: str) -> float:
        """The median of a field of `Round`, or of `Result`."""
        figures: list[float] = [getattr(one if hasattr(one, figure) else one.result, figure) for one in self.rounds]
        return statistics.median(figures)

    @property
    def errors(self) -> int:
        return sum(one.result.errors for one in self.rounds)

    @property
    def first_error(self) -> str:
        return next((one.result.first_error for one in self.rounds if one.result.errors), "")


def run(
    scenario: Scenario,
    contestants: list[Contestant],
    surroundings: Surroundings,
    upstream: Running,
    *,
    rounds: int,
    seconds: float,
) -> list[Figures]:
    """All contestants, started anew, in turn, round after round."""
    measured: dict[str, list[Round]] = {contestant.name: [] for contestant in contestants}
    with all_serving(contestants, surroundings) as serving:
        for contestant in serving:
            for mode in WARMUP:
                warmup = Scenario("warmup", "", mode, min(scenario.connections, 32), warmup=0.0)
                _round(warmup, contestant, upstream, surroundings, WARMUP_SECONDS)
        for _ in range(rounds):
            for contestant in serving:
                measured[contestant.name].append(_undisturbed(scenario, contestant, upstream, surroundings, seconds))
    return [Figures(scenario, name, taken) for name, taken in measured.items()]


def _undisturbed(
    scenario: Scenario, contestant: Running, upstream: Running, surroundings: Surroundings, seconds: float
) -> Round:
    """A round that other programs did not disturb, or, of so many, the least disturbed one."""
    tried: list[Round] = []
    while not tried or (tried[-1].foreign > FOREIGN and len(tried) < TRIES):
        tried.append(_round(scenario, contestant, upstream, surroundings, seconds))
    return min(tried, key=lambda one: one.foreign)


def _round(
    scenario: Scenario, contestant: Running, upstream: Running, surroundings: Surroundings, seconds: float
) -> Round:
    contestant.wake()
    serving = contestant.serving
    cpus = surroundings.places.measured

    def used() -> tuple[float, float, float, float, float]:
        return (
            time.monotonic() * 1e6,
            processes.cpu_us(serving),
            processes.cpu_us(upstream.serving),
            processes.cpu_us(contestant.ingesting),
            processes.machine_cpu_us(cpus),
        )

    before = used()
    result = generate(scenario.load(contestant.port, seconds), surroundings)
    wall, proxy, answering, ingester, machine = (b - a for a, b in zip(before, used(), strict=True))
    contestant.rest()
    load = answering + result.cpu_us
    # An ingester with a CPU of its own is not on the measured ones.
    ours = proxy + load + (ingester if surroundings.places.ingester <= cpus else 0.0)
    return Round(
        result=result,
        cpu_per_request=proxy / result.requests if result.requests else math.nan,
        cpu_per_chunk=proxy / result.chunks if result.chunks else math.nan,
        proxy_busy=proxy / wall,
        load_busy=load / wall,
        ingester_busy=ingester / wall,
        foreign=max(0.0, machine - ours) / wall / len(cpus),
    )


def generate(load: Load, surroundings: Surroundings) -> Result:
    """Run the load generator in a process of its own."""
    log = surroundings.folder / "load.log"
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(dataclasses.asdict(load))]
    process = processes.start(command, log, surroundings.places.load, surroundings.environment)
    with processes.running(process):
        try:
            process.wait(load.warmup + load.seconds + PATIENCE_SECONDS + LATE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"the load generator hangs: {load}") from None
    output = log.read_text(errors="replace")
    if process.returncode:
        raise BenchmarkError(f"the load generator failed: {output[-2000:]}")
    return Result(**json.loads(output.splitlines()[-1]))
