"""What the serving process counts, and its rendering in Prometheus' text format."""

from collections import Counter
from collections.abc import Mapping

# https://prometheus.io/docs/instrumenting/exposition_formats/
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one process since its start. Only ever touched in the event loop."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.exchanges: Counter[tuple[str, str, int]] = Counter()  # upstream, outcome, status (0: none)
        self.seconds: Counter[str] = Counter()
        self.request_bytes: Counter[str] = Counter()
        self.response_bytes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # by error code
        self.spool_errors = 0
        self.spool_records_lost = 0
        self.unrecorded = 0

    def began(self) -> None:
        self.in_flight += 1

    def ended(
        self,
        upstream: str,
        outcome: str,
        status: int | None,
        *,
        request_bytes: int,
        response_bytes: int,
        microseconds: int,
    ) -> None:
        self.in_flight -= 1
        self.exchanges[upstream, outcome, status or 0] += 1
        self.seconds[upstream] += microseconds / 1e6  # type: ignore[assignment]
        self.request_bytes[upstream] += request_bytes
        self.response_bytes[upstream] += response_bytes

    def render(self, gauges: Mapping[str, float]) -> str:
        """The counters, and `gauges` (name without prefix → value) beside them."""
        lines: list[str] = []

        def add(name: str, kind: str, what: str, samples: list[tuple[str, float]]) -> None:
            lines.append(f"# HELP llmproxy_{name} {what}")
            lines.append(f"# TYPE llmproxy_{name} {kind}")
            # Whole numbers whole: a counter of bytes soon has more digits than a rounded one shows.
            lines.extend(
                f"llmproxy_{name}{labels} {value if isinstance(value, int) else format(value, '.10g')}"
                for labels, value in samples
            )

        add(
            "exchanges_total",
            "counter",
            "Exchanges that ended.",
            [
                (_labels(upstream=upstream, outcome=outcome, status=str(status)), count)
                for (upstream, outcome, status), count in sorted(self.exchanges.items())
            ],
        )
        for name, what, counter in (
            ("exchange_seconds_total", "Time from an exchange's beginning to its end, summed.", self.seconds),
            ("request_bytes_total", "Bytes of request bodies.", self.request_bytes),
            ("response_bytes_total", "Bytes of response bodies.", self.response_bytes),
        ):
            add(name, "counter", what, [(_labels(upstream=up), count) for up, count in sorted(counter.items())])
        add(
            "refused_total",
            "counter",
            "Requests that llmproxy refused, by error code.",
            [(_labels(code=code), count) for code, count in sorted(self.refused.items())],
        )
        add("in_flight", "gauge", "Exchanges in flight.", [("", self.in_flight)])
        add("spool_errors_total", "counter", "Failed writes to the spool.", [("", self.spool_errors)])
        add("spool_records_lost_total", "counter", "Records that those lost.", [("", self.spool_records_lost)])
        add("unrecorded_total", "counter", "Exchanges forwarded without a recording.", [("", self.unrecorded)])
        for name, value in gauges.items():
            add(name, "gauge", name.replace("_", " ").capitalize() + ".", [("", value)])
        return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"
