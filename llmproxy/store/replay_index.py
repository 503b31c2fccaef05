"""Finds the captured exchanges that asked the same as a request does.

The index is hashes in memory, made from the database when it is first asked and gone on with when something new is
there; the bodies stay in the database until one of them is the answer.
"""

import difflib
import json
import sqlite3
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llmproxy.headers import Header
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.captured import read_tools
from llmproxy.store.exchanges import REPLAYED
from llmproxy.store.items import Items
from llmproxy.store.llm_store import TurnReader
from llmproxy.store.recorder import whole_turn
from llmproxy.store.replay_answer import CapturedAnswer, read_answer
from llmproxy.store.replay_question import Question, read_question
from llmproxy.store.request_key import Asked, counting, message_digest, normal_text, request_key

# How many of the newest exchanges are looked at to say which is nearest to a request that is not known.
_NEAREST_OF = 200


@dataclass(frozen=True, slots=True)
class Known:
    """A captured exchange that answers. `good`: whole, and not an error."""

    id: str
    stream: bool
    good: bool


@dataclass(frozen=True, slots=True)
class Nearest:
    """The captured exchange that is most like a request, and the unified diff from it to the request."""

    id: str
    diff: str


_ROWS = """
select e.id, e.turn_id, e.upstream, e.api, e.method, e.path, e.stream, e.status, e.outcome, e.request_headers,
    e.request_body, t.model, t.parent_message_hash, t.options_json, schemas.content, i.conversation
from llmproxy_exchanges as e
left join turns as t on t.id = e.turn_id
left join schemas on schemas.id = t.schema_id
left join llmproxy_turns as i on i.turn_id = e.turn_id
where e.outcome in ('complete', 'error_in_stream', 'upstream_cut') and e.truncated = 0
    and (e.turn_id is not null or e.request_body is not null) and coalesce(e.reason, '') != :replayed
    and instr(e.response_headers, '"x-llmproxy-error"') = 0
    and (:upstream is null or e.upstream = :upstream) and (:model is null or e.model glob :model)
"""
_COLUMNS = (
    "id turn_id upstream api method path stream status outcome request_headers request_body model parent options schema"
    " conversation"
).split()


class ReplayIndex:
    """The index over one database; safe to use from several threads.

    - `match`: the options that count. `upstream`, `model` (`*` stands for anything): only what went there.
    """

    def __init__(
        self, database: sqlite3.Connection, match: Collection[str], *, upstream: str | None, model: str | None
    ) -> None:
        self._db = database
        self._reader = TurnReader(database)
        self._items = Items(database)
        self._match = match
        self._filters = {"replayed": REPLAYED, "upstream": upstream, "model": model}
        self._known: dict[bytes, list[Known]] = {}
        self._newest = ""
        self._digests: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()

    def refresh(self) -> int:
        """Take in what was captured since the last time; how many exchanges are known now."""
        with self._lock:
            rows = self._db.execute(
                _ROWS + " and e.id > :newest order by e.id", self._filters | {"newest": self._newest}
            )
            for values in rows.fetchall():
                row = dict(zip(_COLUMNS, values, strict=True))
                key = self._key(row)
                if key is not None:
                    good = row["outcome"] == "complete" and row["status"] < 400
                    self._known.setdefault(key, []).append(Known(row["id"], bool(row["stream"]), good))
                self._newest = row["id"]
            self._digests.clear()
            return sum(map(len, self._known.values()))

    def question(self, method: str, path: str, headers: Sequence[Header], body: bytes) -> Question:
        """What a request asks; `path` is with its query, as an upstream is asked for it."""
        with self._lock:
            return self._read(method, path, headers, body)

    def find(self, question: Question) -> list[Known]:
        """The exchanges that asked the same, in the order of capture: good ones, or where there are none the others;
        of these the ones that were streamed as the request wants it, or where there are none the others."""
        known = self._known.get(question.key, [])
        known = [each for each in known if each.good] or known
        return [each for each in known if each.stream == question.stream] or known

    def answer(self, known: Known) -> CapturedAnswer:
        """What was answered. Raises `KeyError` where it is gone from the database."""
        with self._lock:
            return read_answer(self._db, known.id)

    def nearest(self, question: Question) -> Nearest | None:
        """The captured exchange that is most like a request that is not known; None where there is none of its kind."""
        with self._lock:
            rows = self._db.execute(
                _ROWS + f" and e.api is :api order by e.id desc limit {_NEAREST_OF}",
                self._filters | {"api": question.api},
            )
            best: tuple[float, str, list[str]] = (-1.0, "", [])
            for values in rows.fetchall():
                row = dict(zip(_COLUMNS, values, strict=True))
                lines = self._lines(row)
                likeness = _likeness(lines, question.lines)
                if likeness > best[0]:
                    best = (likeness, row["id"], lines)
        if not best[1]:
            return None
        diff = difflib.unified_diff(best[2], question.lines, f"captured {best[1]}", "this request", n=2, lineterm="")
        return Nearest(best[1], "\n".join(diff))

    def without_bytes(self, question: Question, method: str) -> int:
        """How many exchanges at the same place cannot be found because nothing of their request was kept."""
        with self._lock:
            rows = self._db.execute(
                "select upstream, path from llmproxy_exchanges"
                " where method = :method and turn_id is null and request_body is null"
                " and coalesce(reason, '') != :replayed and (:upstream is null or upstream = :upstream)",
                self._filters | {"method": method},
            )
            return sum(_own_path(path, upstream) == question.place for upstream, path in rows)

    def _key(self, row: dict[str, Any]) -> bytes | None:
        if _is_question(row):
            asked = self._asked(row)
            return request_key(asked, self._digested(self._reader.chain(row["parent"])))
        if row["request_body"] is None:
            return None  # it points at a conversation that the provider kept
        return self._raw_question(row).key

    def _lines(self, row: dict[str, Any]) -> list[str]:
        if _is_question(row):
            return normal_text(self._asked(row), self._reader.conversation(row["parent"]))
        return [] if row["request_body"] is None else list(self._raw_question(row).lines)

    def _asked(self, row: dict[str, Any]) -> Asked:
        return Asked(
            api=row["api"],
            model=row["model"],
            tools=read_tools(self._db, row["turn_id"]),
            schema=json.loads(row["schema"]) if row["schema"] else None,
            options=counting(json.loads(row["options"] or "{}"), self._match),
        )

    def _digested(self, hashes: list[str]) -> list[tuple[str, bytes]]:
        new = [hash for hash in hashes if hash not in self._digests]
        for hash, message in self._reader.messages(new).items():
            self._digests[hash] = message_digest(message)
        return [self._digests[hash] for hash in hashes]

    def _raw_question(self, row: dict[str, Any]) -> Question:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(row["request_headers"])
        ]
        return self._read(row["method"], _own_path(row["path"], row["upstream"]), headers, row["request_body"])

    def _read(self, method: str, path: str, headers: Sequence[Header], body: bytes) -> Question:
        return read_question(method, path, headers, body, match=self._match, whole=self._whole)

    def _whole(self, turn: Turn) -> Turn:
        turn = self._items.whole(turn)
        if turn.previous_response_id is not None:
            # All columns, since a recording that an older version made lacks some, and is not migrated.
            cursor = self._db.execute(
                "select llmproxy_turns.*, tip_message_hash from turns join llmproxy_turns"
                " on turns.id = llmproxy_turns.turn_id where response_id = ? order by turn_id desc limit 1",
                [turn.previous_response_id],
            )
            values = cursor.fetchone()
            if values is not None:
                row = dict(zip((column[0] for column in cursor.description), values, strict=True))
                history = self._reader.conversation(row["tip_message_hash"])
                return whole_turn(turn, history, read_tools(self._db, row["turn_id"]), row.get("instructions"))
        return turn


def _is_question(row: dict[str, Any]) -> bool:
    """Whether the turn tells what its request asked: one that points at a conversation, or came back for an answer
    that was made in the background, does not."""
    return row["turn_id"] is not None and row["conversation"] is None and row["method"] == "POST"


def _own_path(path: str, upstream: str) -> str:
    """The path without the upstream's name, which leads it where the upstream is not the default."""
    return path.removeprefix(f"/{upstream}") if path.startswith(f"/{upstream}/") else path


def _likeness(one: Sequence[str], other: Sequence[str]) -> float:
    # By words, since a conversation may be one line; the end of a long one tells most.
    before, after = (" ".join(lines)[-4000:].split() for lines in (one, other))
    return difflib.SequenceMatcher(None, before, after, autojunk=False).ratio()
