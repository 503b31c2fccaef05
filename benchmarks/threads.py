"""Does finding a turn's thread cost more in a large database?

    python -m benchmarks.threads [--turns 1000000]

The index is filled with turns of other conversations, at a hundredth of the number and at the whole of it, and the
same look-ups are timed at both: those that find a parent, and those that find none. A scan would show as a ratio near
100; an index shows as one near 1.
"""

import argparse
import hashlib
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.parts import Message, TextPart
from sqlite_utils import Database

from llmproxy.reconstruct.turn import Turn
from llmproxy.store.conversation_key import conversation_keys
from llmproxy.store.open_database import open_database
from llmproxy.store.parents import Parents, wanted

LOOKUPS = 500


def rows(start: int, stop: int) -> Iterator[tuple[Any, ...]]:
    """Turns of conversations of ten turns each, with keys that are as random as real ones."""
    for number in range(start, stop):
        id = f"01k{number:023d}"
        key = [hashlib.blake2b(f"{number}:{kind}".encode(), digest_size=8).digest() for kind in range(4)]
        parent = f"01k{number - 1:023d}" if number % 10 else None
        yield (id, id, parent, parent, f"01k{number - number % 10:023d}", b"kin", *key)


def fill(db: Database, start: int, stop: int) -> None:
    columns = (
        "turn_id, exchange_id, parent_turn_id, parent_exchange_id, thread_id, kin,"
        " answer_key, answer_key_without_ids, wanted_key, wanted_key_without_ids"
    )
    with db.atomic():
        db.conn.executemany(f"insert into llmproxy_turns ({columns}) values ({', '.join('?' * 10)})", rows(start, stop))


def conversation(length: int, name: str) -> list[Message]:
    return [Message(("user", "assistant")[at % 2], [TextPart(f"{name}: message {at}")]) for at in range(length * 2 + 1)]


def time_lookups(connection: sqlite3.Connection, db: Database, size: int, known: bool) -> float:
    """Microseconds for one look-up, the median. `known`: the database has the parent."""
    parents = Parents(connection)
    times = []
    for number in range(LOOKUPS):
        messages = conversation(100, f"conversation {size} {known} {number}")
        asked = conversation_keys(messages)
        hint = wanted(asked, Turn("chat.completions", "m", tuple(messages)), None)
        if known:
            key = asked.answers[-1]
            connection.execute(
                "update llmproxy_turns set answer_key = ?, answer_key_without_ids = ? where turn_id = ?",
                [key.with_ids, key.without_ids, f"01k{number:023d}"],
            )
        start = time.perf_counter()
        found = parents.continued("01z" + "0" * 23, asked, hint)
        times.append((time.perf_counter() - start) * 1e6)
        assert (found is not None) == known
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1_000_000)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory(prefix="llmproxy-benchmarks-") as folder:
        db = open_database(Path(folder) / "logs.db")
        results = {}
        filled = 0
        for size in (turns // 100, turns):
            fill(db, filled, size)
            filled = size
            results[size] = [time_lookups(db.conn, db, size, known) for known in (False, True)]
            print(f"{size:>10} turns: none found {results[size][0]:6.0f} µs, found {results[size][1]:6.0f} µs")
        small, large = results.values()
        print(f"     ratio: none found {large[0] / small[0]:6.2f}   , found {large[1] / small[1]:6.2f}")
        db.close()


if __name__ == "__main__":
    main()
