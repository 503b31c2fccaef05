"""Feeds ingest with recorded exchanges that were spoilt, and says what fell out.

    python -m tests.fuzz --minutes 10

Bytes are flipped, cut, doubled; any JSON value is put in the place of any other. Nothing may raise: a turn, or a
reason.
"""

import argparse
import collections
import json
import random
import time
from typing import Any

from llm.logs import LogStore

from llmproxy.capture.exchange import Exchange
from llmproxy.ingest import read
from llmproxy.store.recorder import DatabaseRecorder
from tests.corpus import CORPUS, Record, fixture_records, records
from tests.store.conversations import database

ODD: list[Any] = [
    None, True, -1, 2**70, 1e308, float("nan"), "", "\ud800", "\0", "x" * 300, [], [[]], {}, {"": None}, {"type": 7},
    {"type": "text", "text": {"a": []}}, [{"role": 3}], [None, 1], "data:;base64,!!", "tool", {"index": -5, "id": ""},
]  # fmt: skip


def spoil_json(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.04:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {
            (chance.choice(["type", "role", "content", "", "id"]) if chance.random() < 0.02 else key): spoil_json(
                item, chance
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [spoil_json(item, chance) for item in value for _ in range(chance.choice((1, 1, 1, 1, 0, 2)))]
    return value


def spoil_text(data: bytes, chance: random.Random) -> bytes:
    """Spoil the JSON of a body or of a stream's events, or else its bytes."""
    if chance.random() < 0.3:
        spoilt = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            if spoilt:
                at = chance.randrange(len(spoilt))
                spoilt[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        return bytes(spoilt)[: chance.choice((len(spoilt), len(spoilt), chance.randrange(len(spoilt) + 1)))]
    lines = []
    for line in data.split(b"\n"):
        head, colon, rest = line.partition(b"data:") if line.startswith(b"data:") else (b"", b"", line)
        try:
            lines.append(head + colon + json.dumps(spoil_json(json.loads(rest), chance)).encode())
        except (ValueError, RecursionError):
            lines.append(line)
    return b"\n".join(lines)


def spoil(record: Record, number: int, chance: random.Random) -> Exchange:
    pieces = record.pieces()
    body = spoil_text(b"".join(pieces), chance)
    try:
        request = json.dumps(spoil_json(json.loads(record.request_body), chance)).encode()
    except ValueError:
        request = record.request_body
    return Exchange(
        id=f"01k{number:023d}",
        upstream="up",
        method="POST",
        path=record.path,
        client=None,
        started=1_700_000_000.0 + number,
        request_headers=tuple((k.lower().encode(), v.encode("utf-8")) for k, v in record.request_headers.items()),
        request_body=spoil_text(request, chance) if chance.random() < 0.3 else request,
        status=chance.choice((record.status, record.status, 200, 400, 500)),
        response_headers=((b"content-type", b"text/event-stream" if record.stream else b"application/json"),),
        response_body=[(at, body[at : at + 1400]) for at in range(0, len(body), 1400)],
        outcome=chance.choice(("complete", "complete", "client_gone", "upstream_cut")),
        duration_us=len(body),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    sound = [
        record for record in (records() if CORPUS.is_dir() else fixture_records()) if len(record.response_body) < 60_000
    ]
    db = database()
    recorder = DatabaseRecorder(db, "failed")
    reasons: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + options.minutes * 60
    number = 0
    while time.monotonic() < end:
        number += 1
        exchange = spoil(chance.choice(sound), number, chance)
        reading = read(exchange)
        reasons[(reading.reason or "a turn").split(":")[0]] += 1
        try:
            with db.atomic():
                recorder.write(exchange, reading)
        except Exception:
            print(f"seed {options.seed}, exchange {number}: {exchange!r}"[:3000], flush=True)
            raise
        if number % 2000 == 0:
            broken = LogStore(db).verify()
            assert not broken, [
                db.execute("select type, tool_name, text, payload from parts where message_hash = ?", [hash]).fetchall()
                for hash in broken
            ]
            db = database()
            recorder = DatabaseRecorder(db, "failed")
    print(f"{number} exchanges, seed {options.seed}")
    for reason, count in reasons.most_common():
        print(f"{count:>8}  {reason}")


if __name__ == "__main__":
    main()
