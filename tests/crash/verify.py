"""What must hold at the end."""

import collections
import json
import os
import sqlite3
import time

import sqlite_utils
from llm.logs import LogStore
from llm.parts import TextPart

from tests.crash.faults import Place
from tests.crash.load import Load, question, text


def verify(place: Place, load: Load) -> dict[str, int]:
    """Compare what clients and the upstream saw with what is stored; the counts. Raises `AssertionError`."""
    assert not load.mistakes, load.mistakes[:10]
    connection = sqlite3.connect(place.database)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    columns = "request_headers, outcome, turn_id, response_bytes, reason"
    rows = connection.execute(f"select {columns} from llmproxy_exchanges where method = 'POST'").fetchall()
    tips = dict(connection.execute("select id, tip_message_hash from turns").fetchall())
    connection.close()

    stored: dict[int, list[tuple[str, str | None, int]]] = collections.defaultdict(list)
    raw: collections.Counter[str] = collections.Counter()
    for headers, outcome, turn_id, size, reason in rows:
        number = int(dict(json.loads(headers))["x-number"])
        stored[number].append((outcome, turn_id, size))
        if reason is not None:
            assert number not in load.complete, f"number {number} is complete at the client, yet {reason}"
            raw[reason] += 1
    twice = {number: found for number, found in stored.items() if len(found) > 1}
    assert not twice, f"exchanges are in the database more than once: {twice}"
    resent = [number for number, count in collections.Counter(load.reached).items() if count > 1]
    assert not resent, f"requests were sent to the upstream more than once: {resent}"
    lost = {
        number: stored.get(number)
        for number, size in load.complete.items()
        if [(outcome, stored_size) for outcome, _, stored_size in stored.get(number, [])] != [("complete", size)]
    }
    assert not lost, f"{len(lost)} complete answers at clients are not complete in the database: {lost}"
    unseen = [number for number in load.reached if number not in stored]
    assert not unseen, f"the upstream got requests that the database has not: {unseen}"

    db = sqlite_utils.Database(place.database)
    store = LogStore(db)
    assert store.verify() == []
    for number in load.complete:
        tip = tips[stored[number][0][1]]
        asked, said = (
            "".join(part.text for part in message.parts if isinstance(part, TextPart))
            for message in store.load_chain(tip)
        )
        assert asked == question(number, load.behaviours[number]), f"the turn of number {number} is not the question"
        assert said == text(number, load.behaviours[number]), f"the turn of number {number} is not the answer"
    db.close()
    damaged = _nothing_left_over(place)
    outcomes = collections.Counter(found[0][0] for found in stored.values())
    return {
        "complete at the client, each complete in the database": len(load.complete),
        "reached the upstream, each with a row": len(load.reached),
        **dict(sorted(load.seen.items())),
        "rows": len(rows),
        **{f"rows {outcome}": count for outcome, count in sorted(outcomes.items())},
        **{f"rows kept raw: {reason}": count for reason, count in sorted(raw.items())},
        "turns": len(tips),
        "torn pieces kept aside": damaged,
    }


def _nothing_left_over(place: Place) -> int:
    """No file but those that stay; the number of torn pieces that were kept aside."""
    now = time.time()
    spool = {path.name: path for path in place.spool.iterdir()}
    # A file that was being made when its process was killed is removed when it is a minute old.
    young = {name for name, path in spool.items() if name.endswith(".new") and now - path.stat().st_mtime < 60}
    left = spool.keys() - young - {"ingest.lock", "ingest.current", "damaged"}
    assert not left, f"left in the spool: {sorted(left)}"
    # A database that was being made when its process was killed has no name yet.
    left = {path.name for path in place.database.parent.iterdir() if not path.name.startswith(".logs.db-")} - {
        "logs.db"
    }
    assert not left, f"left beside the database: {sorted(left)}"
    assert not os.listdir(place.home / "tmp"), "temporary files are left over"
    return len(list((place.spool / "damaged").iterdir())) if "damaged" in spool else 0
