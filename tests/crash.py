"""A crash test: a load of requests and streams while processes are killed with -9, and a count of what is left.

    python -m tests.crash --minutes 5

What must hold at the end: each exchange whose last byte a client received is in the database exactly once and complete,
each request that the upstream received has a row, the database is intact, and nothing runs on.
"""

import argparse
import collections
import itertools
import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import sqlite_utils
from llm.logs import LogStore

from tests.proxy import Program, children, eventually
from tests.raw_upstream import Connection, RawRequest, answer, raw_upstream

CLIENTS = 8


@dataclass
class Load:
    """What clients and the upstream saw, by the number of each request."""

    url: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    complete: list[int] = field(default_factory=list)
    broken: int = 0
    reached: list[int] = field(default_factory=list)


def upstream_handler(load: Load, chance: random.Random) -> Callable[[Connection, RawRequest], bool]:
    def handler(connection: Connection, request: RawRequest) -> bool:
        number = int(dict(request.headers)[b"x-number"])
        load.reached.append(number)
        words = ["answer ", str(number)]
        if json.loads(request.body)["stream"]:
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for word in (*words, None):
                delta = {} if word is None else {"role": "assistant", "content": word}
                choice = {"index": 0, "delta": delta, "finish_reason": None if word else "stop"}
                data = b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"
                connection.send(b"%x\r\n%b\r\n" % (len(data), data))
                time.sleep(chance.random() * 0.02)  # the upstream's own pace, not a wait for something
            connection.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
            connection.send(answer(json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()))
        return True

    return handler


def client(load: Load, seed: int) -> None:
    chance = random.Random(seed)
    with httpx2.Client(timeout=30, verify=False, trust_env=False) as session:
        while not load.stop.is_set():
            number = next(load.numbers)
            stream = chance.random() < 0.5
            body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": f"number {number}"}]}
            try:
                response = session.post(f"{load.url}/v1/chat/completions", json=body, headers={"x-number": str(number)})
                if response.status_code == 200:
                    load.complete.append(number)
            except httpx2.TransportError:
                load.broken += 1
                load.stop.wait(0.05)


def run(home: Path, seconds: float, seed: int) -> dict[str, int]:
    """Run the test in a folder; the counts. Raises `AssertionError` for what was lost."""
    chance = random.Random(seed)
    load = Load()
    kills: collections.Counter[str] = collections.Counter()
    with raw_upstream(upstream_handler(load, chance)) as up:
        arguments = ("serve", "--port", "0", "--upstream", f"{up.url}/v1")
        program = Program(home, *arguments)
        load.url = program.url
        threads = [threading.Thread(target=client, args=(load, seed + at), daemon=True) for at in range(CLIENTS)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            load.stop.wait(0.2 + chance.random())
            victim = chance.choice(("server", "ingester", "all"))
            kills[victim] += 1
            targets = children(program.process.pid) if victim != "server" else []
            if victim != "ingester":
                targets.append(program.process.pid)
            for pid in targets:
                os.kill(pid, signal.SIGKILL)
            if victim != "ingester":
                program.process.wait()
                program = Program(home, *arguments)
                load.url = program.url
        load.stop.set()
        for thread in threads:
            thread.join(60)
        assert program.stop() == 0, program.output
    drain = Program(home, "ingest", "--drain")
    assert drain.wait(120) == 0, drain.output
    counts = verify(home, load)
    return {**counts, **{f"killed {victim}": count for victim, count in kills.items()}}


def verify(home: Path, load: Load) -> dict[str, int]:
    connection = sqlite3.connect(home / "logs.db")
    rows = connection.execute("select request_headers, outcome, turn_id from llmproxy_exchanges").fetchall()
    unread = connection.execute("select id, reason from llmproxy_exchanges where reason is not null").fetchall()
    assert not [row for row in unread if not row[1].startswith("request body is not JSON")], unread
    outcomes: dict[int, list[tuple[str, str | None]]] = collections.defaultdict(list)
    for headers, outcome, turn_id in rows:
        number = int(headers.partition('"x-number", "')[2].partition('"')[0])
        outcomes[number].append((outcome, turn_id))
    lost = [number for number in load.complete if [outcome for outcome, _ in outcomes[number]] != ["complete"]]
    unseen = [number for number in load.reached if not outcomes[number]]
    twice = [number for number, found in outcomes.items() if len(found) > 1]
    assert not lost, f"clients have a complete answer that the database has not: {lost}: {[outcomes[n] for n in lost]}"
    assert not unseen, f"the upstream got requests that the database has not: {unseen}"
    assert not twice, f"exchanges are in the database more than once: {twice}"
    turns = dict(connection.execute("select id, tip_message_hash from turns").fetchall())
    assert all(outcomes[number][0][1] in turns for number in load.complete)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
    db = sqlite_utils.Database(home / "logs.db")
    assert LogStore(db).verify() == []
    db.close()
    spool = home / "llmproxy" / "spool"
    eventually(lambda: not list(spool.glob("*.spool")), "an empty spool")
    assert not list(spool.glob("damaged/*")), "a killed process leaves at most a torn tail of something in flight"
    return {
        "complete at the client": len(load.complete),
        "broken at the client": load.broken,
        "reached the upstream": len(load.reached),
        "rows": len(rows),
        "rows complete": sum(found[0][0] == "complete" for found in outcomes.values()),
        "rows interrupted": sum(found[0][0] == "interrupted" for found in outcomes.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="llmproxy-crash-") as folder:
        for name, count in run(Path(folder), options.minutes * 60, options.seed).items():
            print(f"{count:>8}  {name}")


if __name__ == "__main__":
    main()
