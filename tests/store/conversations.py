"""Makes exchanges and turns by hand, and writes them into a database in memory."""

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

from llm.logs import LogStore
from llm.parts import Message, Part, TextPart, ToolCallPart, ToolResultPart
from sqlite_utils import Database

from llmproxy.capture.exchange import Exchange
from llmproxy.reconstruct.turn import Output, Turn
from llmproxy.store.recorder import DatabaseRecorder, Reading
from llmproxy.store.tables import migrations


class _InMemory(sqlite3.Connection):
    """Closed with the last that refers to it, in whichever thread that is: Python 3.13 warns where nobody does."""

    def __del__(self) -> None:
        self.close()


def database() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=_InMemory)
    db = Database(connection)
    LogStore(db)
    migrations.apply(db)
    return db


def system(text: str) -> Message:
    return Message("system", [TextPart(text)])


def user(text: str) -> Message:
    return Message("user", [TextPart(text)])


def assistant(text: str, *parts: Part) -> Message:
    return Message("assistant", [*([TextPart(text)] if text else []), *parts])


def call(id: str | None, name: str = "f", **arguments: Any) -> ToolCallPart:
    return ToolCallPart(name=name, arguments=arguments, tool_call_id=id)


def result(id: str | None, output: str) -> Message:
    return Message("tool", [ToolResultPart(name="f", output=output, tool_call_id=id)])


class Recordings:
    """Exchanges that began one after the other; `write` ingests them, in any order."""

    def __init__(self, db: Database | None = None) -> None:
        self.db = db if db is not None else database()
        self._recorder = DatabaseRecorder(self.db, "failed")
        self._numbers = itertools.count(1)
        self.pending: list[tuple[Exchange, Turn]] = []

    def exchange(self, input: Sequence[Message], *answers: Message, **fields: Any) -> str:
        """An exchange that asked with `input` and was answered; its id. It is not written yet."""
        number = next(self._numbers)
        id = f"01k0000000{number:016d}"
        outputs = tuple(Output(at, (answer,), "stop") for at, answer in enumerate(answers))
        api = fields.pop("api", "chat.completions")
        turn = Turn(api, fields.pop("model", "m"), tuple(input), outputs, **fields)
        exchange = Exchange(
            id=id,
            upstream="up",
            method="POST",
            path="/v1/chat/completions",
            client=None,
            started=1_700_000_000.0 + number,
            request_headers=(),
            request_body=b"{}",
            status=200,
            response_headers=(),
            response_body=[(1000, b"{}")],
            outcome="complete",
            duration_us=2000,
        )
        self.pending.append((exchange, turn))
        return id

    def write(self, order: Sequence[int] | None = None) -> None:
        for at in order if order is not None else range(len(self.pending)):
            exchange, turn = self.pending[at]
            with self.db.atomic():
                self._recorder.write(exchange, Reading(turn.api, turn, None))
        self.pending = []

    def write_again(self, exchange: Exchange, turn: Turn | None) -> None:
        """Reingest an exchange that is written, as a turn or as none."""
        with self.db.atomic():
            self._recorder.rewrite(exchange, Reading("chat.completions", turn, None if turn else "not understood"))

    def threads(self) -> dict[str, str]:
        """The thread of each turn."""
        return dict(self.db.execute("select id, thread_id from turns").fetchall())

    def forks(self) -> dict[str, str | None]:
        """Where each thread branched off."""
        return dict(self.db.execute("select id, forked_from from threads").fetchall())

    def tips(self) -> dict[str, list[str]]:
        """What each thread shows: the texts of its messages."""
        store = LogStore(self.db)
        return {
            thread: [
                "".join(part.text for part in message.parts if isinstance(part, TextPart))
                for message in store.thread_messages(thread)
            ]
            for (thread,) in self.db.execute("select id from threads").fetchall()
        }
