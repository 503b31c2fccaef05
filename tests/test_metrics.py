"""The counters, and that their text is what Prometheus reads."""

import re

from llmproxy.metrics import Metrics

SAMPLE = re.compile(r'^([a-z_]+)(\{([a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})? (-?[0-9.e+-]+)$')


def samples(text: str) -> dict[str, float]:
    """The samples of an exposition, each of a metric whose HELP and TYPE came before it."""
    declared: set[str] = set()
    found = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            kind, name = line.split(" ")[1:3]
            assert kind in ("HELP", "TYPE")
            declared.add(name)
        else:
            match = SAMPLE.match(line)
            assert match and match[1] in declared, line
            found[match[1] + (match[2] or "")] = float(match[4])
    return found


def test_what_is_counted() -> None:
    metrics = Metrics()
    for outcome, status in (("complete", 200), ("complete", 200), ("timeout", None)):
        metrics.began()
        metrics.ended("up", outcome, status, request_bytes=10, response_bytes=5, microseconds=500_000)
    metrics.began()
    metrics.refused["host_refused"] += 1
    found = samples(metrics.render({"spool_bytes": 7}))
    assert found['llmproxy_exchanges_total{upstream="up",outcome="complete",status="200"}'] == 2
    assert found['llmproxy_exchanges_total{upstream="up",outcome="timeout",status="0"}'] == 1
    assert found['llmproxy_exchange_seconds_total{upstream="up"}'] == 1.5
    assert found['llmproxy_request_bytes_total{upstream="up"}'] == 30
    assert found['llmproxy_refused_total{code="host_refused"}'] == 1
    assert (found["llmproxy_in_flight"], found["llmproxy_spool_bytes"]) == (1, 7)


def test_large_counters_are_exact() -> None:
    metrics = Metrics()
    metrics.response_bytes["up"] = 123_456_789_012_345
    assert 'llmproxy_response_bytes_total{upstream="up"} 123456789012345\n' in metrics.render({})


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.refused['odd "code"\\\n'] += 1
    assert 'llmproxy_refused_total{code="odd \\"code\\"\\\\\\n"} 1' in metrics.render({})
    samples(metrics.render({}))
