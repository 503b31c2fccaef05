"""`python -m benchmarks`: runs the scenarios, prints the tables, draws the chart."""

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import __doc__ as EXPLANATION
from benchmarks import footprint, in_process, processes, tables
from benchmarks.chart import chart
from benchmarks.contestants import (
    CONTESTANTS,
    NGINX,
    Contestant,
    Running,
    Surroundings,
    child_environment,
    llmproxy,
    upstream,
)
from benchmarks.processes import UNPINNED, BenchmarkError
from benchmarks.scenarios import SCENARIOS, Figures, run

OTHERS = ("memory", "start", "capture", "workers", "inprocess")


class Suite:
    """One run: what was measured so far."""

    def __init__(self, arguments: argparse.Namespace, surroundings: Surroundings, upstream: Running) -> None:
        self._rounds: int = arguments.rounds
        self._seconds: float = arguments.seconds
        self._surroundings = surroundings
        self._upstream = upstream
        self._contestants = [CONTESTANTS[name]() for name in arguments.contestants]
        self.figures: dict[str, list[Figures]] = {}
        self.others: dict[str, Any] = {}

    def run(self, name: str) -> str:
        """Measure one scenario; its table."""
        if name in SCENARIOS:
            self.figures[name] = self._run(name, self._contestants)
            says = SCENARIOS[name].says
            return f"### {name}: {says}\n{tables.scenario_table(self.figures[name])}"
        if name == "memory":
            footprints = footprint.footprints(self._contestants, self._surroundings)
            self.others[name] = [dataclasses.asdict(one) for one in footprints]
            return f"### memory\n{footprint.memory_table(footprints)}"
        if name == "start":
            starts = footprint.starts(self._contestants, self._surroundings, self._rounds)
            self.others[name] = [dataclasses.asdict(one) for one in starts]
            return f"### start\n{footprint.start_table(starts)}"
        if name == "inprocess":
            return self._in_process()
        return self._capture() if name == "capture" else self._workers()

    def _run(self, scenario: str, contestants: list[Contestant], *, unpinned: bool = False) -> list[Figures]:
        places = UNPINNED if unpinned else self._surroundings.places
        surroundings = dataclasses.replace(self._surroundings, places=places)
        return run(
            SCENARIOS[scenario], contestants, surroundings, self._upstream, rounds=self._rounds, seconds=self._seconds
        )

    def _capture(self) -> str:
        without, with_capture = figures = self._run(
            "json", [llmproxy("llmproxy without capture", capture=False), llmproxy()]
        )
        share = 1 - without.median("cpu_per_request") / with_capture.median("cpu_per_request")
        self.others["capture"] = {"share": share, "rounds": _plain(figures)}
        return f"### capture: its share of the CPU in json is {share:.0%}\n{tables.scenario_table(figures)}"

    def _workers(self) -> str:
        one, two = figures = self._run("json", [llmproxy(), llmproxy("llmproxy, 2 workers", workers=2)], unpinned=True)
        ratio = two.median("rate") / one.median("rate")
        self.others["workers"] = {"ratio": ratio, "rounds": _plain(figures)}
        cpus = len(os.sched_getaffinity(0))
        return f"### workers: 2 ÷ 1 is {ratio:.2f}, on {cpus} CPUs\n{tables.scenario_table(figures)}"

    def _in_process(self) -> str:
        measured = in_process.measure(self._surroundings, rounds=self._rounds, seconds=self._seconds)
        self.others["inprocess"] = [_plain(figures) for figures in measured]
        told = [f"{load[0].scenario.says}\n{tables.scenario_table(load)}" for load in measured]
        return "### inprocess: an app over HTTP and in llmproxy's process\n" + "\n\n".join(
            (*told, in_process.comparison(measured))
        )


def _plain(figures: Sequence[Figures]) -> list[dict[str, Any]]:
    return [
        {
            "contestant": one.contestant,
            "rounds": [dataclasses.asdict(taken, dict_factory=_json_object) for taken in one.rounds],
        }
        for one in figures
    ]


def _json_object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON has no NaN, which is what a figure is that was not measured.
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields}


def main() -> int:
    """Returns the exit code."""
    arguments = _arguments()
    if not sys.platform.startswith("linux"):
        print("the benchmarks read /proc and need Linux", file=sys.stderr)
        return 1
    processes.end_tidily()
    processes.allow_many_files()
    machine = _machine()
    print(f"{machine}; {arguments.rounds} rounds of {arguments.seconds:g} s\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="llmproxy-benchmarks-") as folder:
        places, environment = processes.pinned_places(), child_environment(Path(folder))
        try:
            with upstream(Path(folder), places, environment) as served:
                surroundings = Surroundings(served.port, Path(folder), places, environment)
                suite = Suite(arguments, surroundings, served)
                for name in arguments.scenarios:
                    print(suite.run(name) + "\n", flush=True)
        except BenchmarkError as exc:
            print(f"benchmarks: {exc}", file=sys.stderr)
            return 1
    base = "nginx" if "nginx" in arguments.contestants else "llmproxy"
    if suite.figures:
        print(f"### ratios\n{tables.ratio_table(suite.figures, base)}\n")
    if arguments.json:
        result = {"machine": machine, "scenarios": {name: _plain(one) for name, one in suite.figures.items()}}
        arguments.json.write_text(json.dumps(result | suite.others, indent=1) + "\n")
    if arguments.svg:
        compared = tables.ratios(tables.costs(suite.figures), base)
        names = [name for name in ("llmproxy", "naive") if name in arguments.contestants and name != base]
        arguments.svg.write_text(chart(f"What a proxy costs, ÷ {base}", f"Less is better. {machine}", compared, names))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=EXPLANATION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join((*SCENARIOS, *OTHERS)))
    parser.add_argument("--contestants", type=lambda text: text.split(","), default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the chart of the ratios")
    arguments = parser.parse_args()
    arguments.scenarios = arguments.scenarios or [*SCENARIOS, *OTHERS]
    for name in arguments.scenarios:
        if name not in SCENARIOS and name not in OTHERS:
            parser.error(f"no scenario {name}; there are {', '.join((*SCENARIOS, *OTHERS))}")
    for name in arguments.contestants:
        if name not in CONTESTANTS:
            parser.error(f"no contestant {name}; there are {', '.join(CONTESTANTS)}")
    if "nginx" in arguments.contestants and NGINX is None:
        arguments.contestants.remove("nginx")
        print("nginx is not installed and left out (Debian: apt-get install nginx-light)", file=sys.stderr)
    return arguments


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{len(os.sched_getaffinity(0))} CPUs ({model}), Linux {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
