"""The load generator of the benchmarks: a process of its own, a closed loop over keep-alive connections.

`python -m benchmarks.load '{"port": 8080, "mode": "json", …}'` (the fields of `Load`) prints one line of JSON (those of
`Result`). In mode `hold` it opens its streams, prints `open` and keeps them until its standard input ends.
"""

import asyncio
import dataclasses
import gc
import json
import sys
import time
from dataclasses import dataclass

import uvloop

from benchmarks.connections import KINDS, Connection, Run, Streamed
from benchmarks.messages import HELD_CHUNKS, request

PATH = "/v1/chat/completions"
# How long what is in flight at the end may take to end.
PATIENCE_SECONDS = 3.0
RECONNECT_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. `warmup` and `seconds`: what ends in the first is not part of the figures."""

    port: int
    mode: str
    connections: int
    body_bytes: int = 1000
    warmup: float = 0.3
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Times are microseconds; `requests` and `chunks` are all there were, warm-up included.

    `kept_up`: of the streams that were to end within the measured time, the share that did so in time.
    `cpu_us`: what the load generator itself used, starting Python included.
    """

    requests: int
    errors: int
    first_error: str
    chunks: int
    rate: float
    p50: float
    p99: float
    ttft_p50: float
    ttft_p99: float
    chunk_p50: float
    chunk_p99: float
    kept_up: float
    cpu_us: float


async def generate(load: Load) -> Result:
    """Send the load, and say what came of it."""
    loop = asyncio.get_running_loop()
    now = time.monotonic_ns()
    measured = now + int(load.warmup * 1e9)
    run = Run(request(PATH, load.mode, load.body_bytes), measured, measured + int(load.seconds * 1e9))
    kind = KINDS[load.mode]
    open_connections: set[Connection] = set()

    async def keep_asking(at: int) -> None:
        # Streams begin spread over a second, so that the chunks of all do not fall together.
        if load.mode == "paced":
            await asyncio.sleep(at / load.connections)
        while time.monotonic_ns() < run.end:
            try:
                _, connection = await loop.create_connection(lambda: kind(run), "127.0.0.1", load.port)
            except OSError as exc:
                run.failed(f"cannot connect: {exc!r}")
            else:
                open_connections.add(connection)
                await connection.ended
                open_connections.discard(connection)
            if time.monotonic_ns() < run.end:
                await asyncio.sleep(RECONNECT_SECONDS)

    try:
        async with asyncio.timeout(load.warmup + load.seconds + PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for at in range(load.connections):
                group.create_task(keep_asking(at))
    except TimeoutError:
        for connection in open_connections:
            connection.give_up("not answered in time")
    return Result(
        requests=run.requests,
        errors=run.errors,
        first_error=run.first_error,
        chunks=run.chunks,
        rate=len(run.latencies) / load.seconds,
        p50=_percentile(run.latencies, 0.5),
        p99=_percentile(run.latencies, 0.99),
        ttft_p50=_percentile(run.ttfts, 0.5),
        ttft_p99=_percentile(run.ttfts, 0.99),
        chunk_p50=_percentile(run.delays, 0.5),
        chunk_p99=_percentile(run.delays, 0.99),
        kept_up=run.in_time / run.due if run.due else float("nan"),
        cpu_us=time.process_time() * 1e6,
    )


def _percentile(nanoseconds: list[int], share: float) -> float:
    nanoseconds.sort()
    return nanoseconds[int(share * (len(nanoseconds) - 1))] / 1000 if nanoseconds else float("nan")


async def hold(load: Load) -> None:
    """Open streams and keep them until standard input ends."""
    loop = asyncio.get_running_loop()
    run = Run(request(PATH, "hold", load.body_bytes), 0, 0)
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(lambda: Streamed(run), "127.0.0.1", load.port)
        connections.append(connection)
        chunks = len(connections) * HELD_CHUNKS
        while run.chunks < chunks:
            await asyncio.sleep(0.001)
    print("open", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    for connection in connections:
        connection.give_up("")


def main() -> None:
    gc.disable()  # a pause would be taken for the proxy's
    load = Load(**json.loads(sys.argv[1]))
    if load.mode == "hold":
        uvloop.run(hold(load))
    else:
        print(json.dumps(dataclasses.asdict(uvloop.run(generate(load)))))


if __name__ == "__main__":
    main()
