"""The tables, as Markdown."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.scenarios import FOREIGN, Figures

Cell = Callable[[Figures], str]

# Where latency is read: not in closed loops at full load, which measure their own queue.
ADDED = {
    "json1": {"p50": "p50"},
    "paced200": {"chunk_p99": "chunk p99", "ttft_p50": "TTFT p50"},
    "paced500": {"chunk_p99": "chunk p99", "ttft_p50": "TTFT p50"},
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    lines = [list(header), ["---"] * len(header), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def number(value: float, digits: int = 0) -> str:
    """With a comma for thousands; a dash for what was not measured."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def share(value: float) -> str:
    """As a percentage; a dash for what was not measured."""
    return "-" if math.isnan(value) else f"{value:.0%}"


def scenario_table(figures: Sequence[Figures]) -> str:
    """What was measured in one scenario, the medians of the rounds, by contestant."""
    direct = next((one for one in figures if one.contestant == "direct"), None)

    def median(figure: str, digits: int = 0) -> Cell:
        return lambda one: number(one.median(figure), digits)

    def added(figure: str) -> Cell:
        return lambda one: number(one.median(figure) - direct.median(figure)) if direct and one is not direct else "-"

    def of_a_proxy(cell: Cell) -> Cell:
        return lambda one: "-" if one.contestant == "direct" else cell(one)

    columns: dict[str, Cell] = {"contestant": lambda one: one.contestant, "requests/s": median("rate")}
    if figures[0].scenario.mode == "paced":
        columns |= {
            "CPU µs/chunk": of_a_proxy(median("cpu_per_chunk", 1)),
            "chunk p50 µs": median("chunk_p50"),
            "chunk p99": median("chunk_p99"),
            "added chunk p50": added("chunk_p50"),
            "added chunk p99": added("chunk_p99"),
            "TTFT p50": median("ttft_p50"),
            "added TTFT p50": added("ttft_p50"),
            "kept up": lambda one: share(one.median("kept_up")),
        }
    else:
        columns["spread"] = lambda one: " to ".join(
            number(edge(taken.result.rate for taken in one.rounds)) for edge in (min, max)
        )
        columns["CPU µs/request"] = of_a_proxy(median("cpu_per_request", 1))
        if figures[0].scenario.mode == "stream":
            columns["CPU µs/chunk"] = of_a_proxy(median("cpu_per_chunk", 2))
        columns |= {
            "p50 µs": median("p50"),
            "p99 µs": median("p99"),
            "added p50": added("p50"),
            "added p99": added("p99"),
        }
    columns |= {
        "proxy busy": of_a_proxy(median("proxy_busy", 2)),
        "load busy": median("load_busy", 2),
        "ingester busy": median("ingester_busy", 2),
        "foreign": lambda one: share(one.median("foreign")),
        "errors": lambda one: f"{one.errors} ({one.first_error.splitlines()[0][:60]})" if one.errors else "0",
    }
    return table(list(columns), [[cell(one) for cell in columns.values()] for one in figures])


def costs(figures: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, float]]:
    """What each contestant costs, microseconds: by what is compared, then by contestant. Less is better."""
    costs: dict[str, dict[str, float]] = {}
    for scenario, of_scenario in figures.items():
        proxies = [one for one in of_scenario if one.contestant != "direct"]
        direct = next((one for one in of_scenario if one.contestant == "direct"), None)
        mode = of_scenario[0].scenario.mode
        unit = "request" if mode == "json" else "chunk"
        costs[f"{scenario}: CPU per {unit}"] = {one.contestant: one.median(f"cpu_per_{unit}") for one in proxies}
        if direct is not None:
            for latency, says in ADDED.get(scenario, {}).items():
                costs[f"{scenario}: added {says}"] = {
                    one.contestant: one.median(latency) - direct.median(latency) for one in proxies
                }
    return costs


def ratios(costs: Mapping[str, Mapping[str, float]], base: str) -> dict[str, dict[str, float]]:
    """The costs ÷ those of `base`, where that was measured."""
    return {
        says: {name: value / row[base] for name, value in row.items()}
        for says, row in costs.items()
        if row.get(base, math.nan) > 0
    }


def ratio_table(figures: Mapping[str, Sequence[Figures]], base: str) -> str:
    """The ratios of one run: costs, then rates, of which more is better. Says where other programs disturbed."""
    rows = ratios(costs(figures), base)
    for scenario, of_scenario in figures.items():
        rates = {one.contestant: one.median("rate") for one in of_scenario if one.contestant != "direct"}
        if of_scenario[0].scenario.mode != "paced" and rates.get(base, 0.0) > 0:
            rows[f"{scenario}: requests/s"] = {name: rate / rates[base] for name, rate in rates.items()}
    disturbed = {
        name for name, of_scenario in figures.items() if any(one.median("foreign") > FOREIGN for one in of_scenario)
    }
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return table(
        [f"÷ {base}", *names],
        [
            [
                says + (" (disturbed)" if says.partition(":")[0] in disturbed else ""),
                *(number(row.get(name, math.nan), 2) for name in names),
            ]
            for says, row in rows.items()
        ],
    )
