"""`python -m benchmarks.durability`: what it costs that nothing is lost.

- `fsync`: llmproxy with `capture.fsync` and without it, on the disk that holds the temporary folder.
- `backlog`: llmproxy while its ingester drains so many short turns that waited in the spool, and llmproxy whose
  ingester is held. Nothing is pinned: what the ingester leaves to forwarding is the system's decision. The peak of the
  ingester's memory is told, and how much it drained meanwhile.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import processes, tables
from benchmarks.contestants import Contestant, Running, Surroundings, child_environment, llmproxy, upstream
from benchmarks.conversations import fill, short_turns
from benchmarks.processes import UNPINNED, BenchmarkError
from benchmarks.scenarios import SCENARIOS, Figures, run
from llmproxy.capture.spool_reader import backlog

FSYNC = {"LLMPROXY_CAPTURE__FSYNC": "true"}


@dataclass(frozen=True, slots=True)
class WithBacklog:
    """Starts llmproxy in front of a spool in which exchanges wait; `held`: and holds its ingester."""

    exchanges: int
    held: bool
    report: list[str]

    def contestant(self) -> Contestant:
        inner = llmproxy("llmproxy, ingester held" if self.held else "llmproxy, draining")
        launch = inner.launch
        assert launch is not None

        def filled(surroundings: Surroundings, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
            if not self.held:
                fill(folder / "llmproxy" / "spool", short_turns(self.exchanges))
            return launch(surroundings, folder)

        return _Contestant(inner.name, filled, has_ingester=True, with_backlog=self)


@dataclass(frozen=True, slots=True)
class _Contestant(Contestant):
    with_backlog: WithBacklog | None = None

    @contextmanager
    def serving(self, surroundings: Surroundings) -> Iterator[Running]:
        case = self.with_backlog
        assert case is not None
        # By name: a dataclass with slots is made anew, which `super()` without arguments does not know.
        with Contestant.serving(self, surroundings) as running:
            assert running.ingester is not None
            if case.held:
                os.kill(running.ingester, signal.SIGSTOP)
                yield replace(running, ingester=None)
                return
            spool = self.folder(surroundings) / "llmproxy" / "spool"
            before = backlog(spool)["waiting_bytes"]
            yield running
            status = Path(f"/proc/{running.ingester}/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            case.report.append(
                f"{case.exchanges:,} exchanges, {before / 1e6:,.0f} MB, waited in the spool; the ingester's memory was"
                f" {peak:.0f} MiB at most, and {backlog(spool)['waiting_bytes'] / 1e6:,.0f} MB waited at the end"
            )


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.durability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="fsync, backlog")
    parser.add_argument("--backlog", type=int, default=1_000_000, metavar="EXCHANGES")
    parser.add_argument("--scenarios", type=lambda text: text.split(","), default=["json", "json1"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    processes.end_tidily()
    processes.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="llmproxy-benchmarks-") as scratch:
        environment = child_environment(Path(scratch))
        try:
            for case in arguments.cases or ["fsync", "backlog"]:
                # What is not pinned is what users have: only then may forwarding and ingest be in each other's way.
                places = UNPINNED if case == "backlog" else processes.pinned_places()
                with upstream(Path(scratch), places, environment) as served:
                    surroundings = Surroundings(served.port, Path(scratch), places, environment)
                    for name in arguments.scenarios:
                        _case(case, name, arguments, surroundings, served)
        except BenchmarkError as exc:
            print(f"benchmarks: {exc}", file=sys.stderr)
            return 1
    return 0


def _case(
    case: str, scenario: str, arguments: argparse.Namespace, surroundings: Surroundings, upstream: Running
) -> None:
    report: list[str] = []
    if case == "fsync":
        contestants = [llmproxy(), llmproxy("llmproxy, fsync", settings=FSYNC)]
    else:
        contestants = [WithBacklog(arguments.backlog, held, report).contestant() for held in (True, False)]
    figures = run(
        SCENARIOS[scenario], contestants, surroundings, upstream, rounds=arguments.rounds, seconds=arguments.seconds
    )
    print(f"### {case}: {scenario}: {_ratio(figures)}\n{tables.scenario_table(figures)}\n", *report, "", flush=True)


def _ratio(figures: list[Figures]) -> str:
    before, after = figures
    return (
        f"{after.contestant} ÷ {before.contestant}: {after.median('rate') / before.median('rate'):.2f} of the requests"
        f" a second, p50 {before.median('p50'):.0f} → {after.median('p50'):.0f} µs,"
        f" p99 {before.median('p99'):.0f} → {after.median('p99'):.0f} µs"
    )


if __name__ == "__main__":
    sys.exit(main())
