"""Benchmarks: what llmproxy costs beside nginx, the least a proxy can cost, and beside the obvious Python proxy.

    python -m benchmarks                     # every scenario, all contestants, about 20 minutes
    python -m benchmarks json paced200 --rounds 3 --seconds 2 --svg chart.svg
    python -m benchmarks.ingest              # how fast the spool gets into the database
    pytest benchmarks/test_micro.py          # the single steps; pip install -e '.[benchmarks]'

Everything is on loopback and bounded in time; every process that is started is ended. Linux only: CPU time and memory
are read from /proc. Contestants are measured in turn, one round after another (A B C A B C), and the medians over the
rounds are told, so that what else the machine does falls on all alike.

The proxy has the first CPU for itself; the upstream and the load generator share the second. The ingester, a process
beside the proxy, gets the third CPU, or, where there are two, what the load leaves of the second (`SCHED_IDLE`): it
never shares the proxy's CPU. It is stopped while others are measured, so that its backlog is nobody else's burden.

Scenarios:
- `json`: 32 connections, 1 KB body, 1.2 KB answer; `json1`: the same over one connection; `big`: a body of 200 KB.
- `stream`: 32 connections, 100 chunks as fast as they go.
- `paced200`, `paced500`: so many streams at once, each with a chunk every 10 ms that carries its time of sending.
- `memory`: resident memory idle, and with 500 and 1,000 open streams.
- `start`: from starting the command to the first forwarded answer; `--help`.
- `inprocess`: one ASGI app under uvicorn, asked directly and through llmproxy, and in llmproxy's own process.
- `capture`: `json` with and without capture. `workers`: `json` with one worker and with two, nothing pinned.

What to read, and the traps:
- Read **CPU time per request and per chunk**, of the serving process alone. The machine's noise touches it least, and
  it says how much one CPU could do. It is user and system time of `/proc/PID/stat`, in steps of 10 ms.
- Requests per second are bounded by the load side, which is Python too. Where its column `load busy` is near 1.00 the
  rate says nothing about the proxy. nginx is always there: its rate here is not what it could do. A proxy that is not
  saturated also wakes more often for the same work, so the CPU time of a fast contestant is told somewhat too high.
- In `stream` the upstream sends some 170,000 chunks a second; a proxy that could do more is not saturated, and how many
  chunks it finds in one read decides its figure. Compare it at equal `load busy` only, and read `paced*` beside it.
- A closed loop at full load measures capacity, not latency: 32 connections wait in a queue. Read latency at `json1`
  and `paced*`, as what is added to `direct` in the same run.
- `direct` has the upstream and the load on one CPU with nothing between them: that is what the others are added to, not
  a contestant for rates.
- With two CPUs, two workers compete with the load side: `workers` needs four CPUs to mean something.
- llmproxy is started from this checkout, anew for each scenario: what is edited meanwhile is measured too.
- Other programs on the measured CPUs falsify everything. Their share is told as `foreign`; a round in which it is
  above 5% is repeated a few times. Where it stays there, the ratios say `disturbed` and are worth nothing.
- `direct` is no floor for single chunks: there the upstream and the load take turns on one CPU.
- In `inprocess` the app's own work is on the load's CPU over HTTP and on the proxy's in its process: CPU time tells of
  both, and latency is what is read.
- `start` is measured with compiled bytecode, as an installed package has it; the first start of all is not counted.
"""
