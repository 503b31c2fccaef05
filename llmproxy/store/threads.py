"""Threads: which conversation a turn belongs to.

A turn goes on in the thread of the turn that it continues, its parent (`store.parents`).

Of the turns that continue one parent, one goes on with its thread, the heir: the first that is of the parent's kin
(API, model, system prompt, tools or none), else the first. The others are forks with threads of their own: a
regenerated answer, an edited message, a parallel branch, a side call that asks for a title. A thread is named by its
first exchange.

All of this is a function of the set of turns, not of the order in which they are ingested: when a turn comes late, the
ones that continue it are looked up by the key they wanted, and settled anew. Every look-up is one in an index.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmproxy.reconstruct.turn import Turn
from llmproxy.store.conversation_key import Key
from llmproxy.store.exchanges import insert
from llmproxy.store.items import Item
from llmproxy.store.parents import Parent, Parents, Wanted, pointable_id

# The turns of an exchange: the first has its id, and only the others are in the index of `exchange_id`.
OF_EXCHANGE = "(turn_id = :exchange or exchange_id = :exchange and exchange_id != turn_id)"


class ThreadStore(Protocol):
    """What is asked of the store when a stored turn changes its thread."""

    def branch_thread(self, thread_id: str, old: str) -> None: ...
    def move_turn(self, turn_id: str, thread_id: str) -> None: ...
    def point_thread(self, thread_id: str, turn_id: str) -> None: ...
    def fork_thread(self, thread_id: str, forked_from: str | None) -> None: ...
    def name_tools(self, turn_id: str, tool_set: int | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn goes when it is stored. `settle` may move it, and others, afterwards.

    `new_tools`: its tools are not those of the turn before it in the thread.
    """

    thread_id: str
    forked_from: str | None
    new_tools: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an exchange, as the index keeps it: its keys, the id of its last item, the telling ids of the tool
    calls it made and of that item, and its items."""

    turn_id: str
    key: Key | None
    exact: bytes | None = None
    last_item: str | None = None
    calls: Sequence[str] = ()
    items: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Former:
    """Where a turn was before it was taken out of the index; `parent` is the exchange that it continued."""

    thread_id: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class _Child:
    exchange_id: str
    thread_id: str
    kin: bytes


class Threads:
    """Keeps threads, in the tables of one database, inside the caller's transaction."""

    def __init__(self, db: sqlite3.Connection, store: ThreadStore) -> None:
        self._db = db
        self._store = store
        self._parents = Parents(db)

    def add(
        self,
        exchange_id: str,
        turn: Turn,
        *,
        parent: Parent | None,
        wanted: Wanted,
        answers: Sequence[Answer],
        tool_set: int | None = None,
    ) -> Place:
        """Enter a turn into the index and say where to store it."""
        place = Place(exchange_id, None, True)
        if parent is not None:
            if self._heir(parent.exchange_id, parent.thread_id) is not None:
                place = Place(exchange_id, parent.thread_id, True)
            else:
                new_tools = self._column(parent.exchange_id, "tool_set") != tool_set
                place = Place(parent.thread_id, None, new_tools)
        for answer in answers:
            insert(
                self._db,
                "llmproxy_turns",
                {
                    "turn_id": answer.turn_id,
                    "exchange_id": exchange_id,
                    "parent_turn_id": parent.turn_id if parent else None,
                    "parent_exchange_id": parent.exchange_id if parent else None,
                    "thread_id": place.thread_id,
                    "kin": wanted.kin,
                    "answer_key": answer.key.with_ids if answer.key else None,
                    "answer_key_without_ids": answer.key.without_ids if answer.key else None,
                    "answer_exact": answer.exact,
                    "answer_item": answer.last_item,
                    "wanted_key": wanted.key.with_ids if wanted.key else None,
                    "wanted_key_without_ids": wanted.key.without_ids if wanted.key else None,
                    "wanted_exact": wanted.exact,
                    "echoed_item": wanted.echoed,
                    "wanted_call": wanted.call,
                    "wanted_item": wanted.item,
                    "response_id": pointable_id(turn),
                    "conversation": turn.conversation,
                    "session": wanted.session,
                    "tool_set": tool_set,
                    "instructions": turn.instructions,
                },
            )
            for tool_call_id in answer.calls:
                self._db.execute(
                    "insert or ignore into llmproxy_tool_calls (tool_call_id, turn_id) values (?, ?)",
                    [tool_call_id, answer.turn_id],
                )
            for item in answer.items:
                self._db.execute(
                    "insert or replace into llmproxy_items (item_id, turn_id, first, parts) values (?, ?, ?, ?)",
                    [item.id, answer.turn_id, item.first, item.parts],
                )
        return place

    def settle(self, exchange_id: str, parent: Parent | None, answers: Sequence[Answer]) -> None:
        """After the turn is stored: give it, its siblings, and those that continue it and came earlier the threads
        they belong to."""
        if parent is not None:
            self._challenge(parent.exchange_id, exchange_id)
        for child in self._waiting_for(exchange_id, answers):
            self._adopt(child)
        self._point(self.thread_of(exchange_id))

    def leave(self, exchange_id: str) -> Former | None:
        """Take a turn out of the index, to enter it anew; None where it is not in it. `rejoin` comes after."""
        row = self._db.execute(
            "select thread_id, parent_exchange_id from llmproxy_turns where turn_id = ?", [exchange_id]
        ).fetchone()
        turns = f"select turn_id from llmproxy_turns where {OF_EXCHANGE}"
        self._db.execute(f"delete from llmproxy_tool_calls where turn_id in ({turns})", {"exchange": exchange_id})
        self._db.execute(f"delete from llmproxy_turns where {OF_EXCHANGE}", {"exchange": exchange_id})
        return Former(*row) if row is not None else None

    def rejoin(self, exchange_id: str, former: Former) -> None:
        """After a turn was entered anew, or was not since it is none any more: give those that continue it, and those
        that continue what it continued, the threads they belong to."""
        is_a_turn = self._column(exchange_id, "exchange_id") is not None
        for child in self._children(exchange_id):
            if is_a_turn:
                self._db.execute(
                    f"update llmproxy_turns set parent_turn_id = parent_exchange_id where {OF_EXCHANGE}"
                    " and not exists (select 1 from llmproxy_turns as parents"
                    " where parents.turn_id = llmproxy_turns.parent_turn_id)",
                    {"exchange": child.exchange_id},
                )
                if self._column(child.exchange_id, "tool_set") != self._column(exchange_id, "tool_set"):
                    self._name_tools(child.exchange_id)
                self._challenge(exchange_id, child.exchange_id)
            else:
                self._db.execute(
                    f"update llmproxy_turns set parent_turn_id = null, parent_exchange_id = null where {OF_EXCHANGE}",
                    {"exchange": child.exchange_id},
                )
                self._move(child.exchange_id, child.thread_id, child.exchange_id)
                self._store.fork_thread(child.exchange_id, None)
                self._adopt(child.exchange_id)
        if former.parent is not None:
            for sibling in self._children(former.parent):
                self._challenge(former.parent, sibling.exchange_id)
        self._point(former.thread_id)

    def thread_of(self, exchange_id: str) -> str:
        """The thread that an exchange's turns are in."""
        return self._column(exchange_id, "thread_id") or exchange_id

    def _waiting_for(self, exchange_id: str, answers: Iterable[Answer]) -> set[str]:
        """The exchanges that began after this one and whose request ends with one of its answers."""
        waiting: set[str] = set()
        for answer in answers:
            if answer.key is not None:
                for column, value in (
                    ("wanted_key", answer.key.with_ids),
                    ("wanted_key_without_ids", answer.key.without_ids),
                ):
                    rows = self._db.execute(
                        f"select exchange_id from llmproxy_turns where {column} = ? and exchange_id > ?",
                        [value, exchange_id],
                    )
                    waiting.update(row[0] for row in rows)
            named = [("wanted_call", id) for id in answer.calls] + [("wanted_item", item.id) for item in answer.items]
            for column, id in named:
                rows = self._db.execute(
                    f"select exchange_id from llmproxy_turns where {column} = ? and exchange_id > ?",
                    [id, exchange_id],
                )
                waiting.update(row[0] for row in rows)
        return waiting

    def _adopt(self, child: str) -> None:
        row = self._db.execute(
            "select parent_exchange_id, wanted_key, wanted_key_without_ids, wanted_exact, echoed_item, wanted_call,"
            " session, kin, wanted_item from llmproxy_turns where turn_id = ?",
            [child],
        ).fetchone()
        old = row[0]
        parent = self._parents.by_last_answer(child, Wanted(Key(*row[1:3]) if row[1] else None, *row[3:]))
        if parent is None or parent.exchange_id == old:
            return
        self._db.execute(
            "update llmproxy_turns set parent_turn_id = :parent, parent_exchange_id = :parent_exchange"
            f" where {OF_EXCHANGE}",
            {"parent": parent.turn_id, "parent_exchange": parent.exchange_id, "exchange": child},
        )
        if old is not None:
            # Out of the old parent's thread, which another of its children may go on with now.
            self._move(child, self.thread_of(child), child)
            for sibling in self._children(old):
                self._challenge(old, sibling.exchange_id)
        self._challenge(parent.exchange_id, child)

    def _challenge(self, parent: str, child: str) -> None:
        """Let a child go on with its parent's thread if it is the heir, and branch off if it is not."""
        thread = self.thread_of(parent)
        kin = self._column(parent, "kin")
        challenger = next(each for each in self._children(parent, child))
        heir = self._heir(parent, thread)
        if heir is None:
            self._move(child, challenger.thread_id, thread)
        elif heir.exchange_id != child:
            if (challenger.kin != kin, child) < (heir.kin != kin, heir.exchange_id):
                self._move(heir.exchange_id, thread, heir.exchange_id)
                self._store.fork_thread(heir.exchange_id, thread)
                self._move(child, challenger.thread_id, thread)
            else:
                self._store.fork_thread(challenger.thread_id, thread)

    def _heir(self, parent: str, thread: str) -> _Child | None:
        row = self._db.execute(
            "select exchange_id, thread_id, kin from llmproxy_turns where parent_exchange_id = ? and thread_id = ?"
            " limit 1",
            [parent, thread],
        ).fetchone()
        return _Child(*row) if row is not None else None

    def _move(self, first: str, old: str, new: str) -> None:
        """Move a turn, and what goes on in its thread after it, from thread `old` to `new`."""
        if old == new:
            return
        self._store.branch_thread(new, old)
        # What moves may begin a thread now.
        self._name_tools(first)
        following: list[str] = [first]
        while following:
            exchange = following.pop()
            moved = {"exchange": exchange, "thread": new}
            rows = self._db.execute(f"select turn_id from llmproxy_turns where {OF_EXCHANGE}", moved)
            for (turn_id,) in rows.fetchall():
                self._store.move_turn(turn_id, new)
            self._db.execute(f"update llmproxy_turns set thread_id = :thread where {OF_EXCHANGE}", moved)
            self._db.execute("update llmproxy_exchange_rows set thread_id = ? where id = ?", [new, exchange])
            for child in self._children(exchange):
                if child.thread_id == old:
                    following.append(child.exchange_id)
                else:
                    self._store.fork_thread(child.thread_id, new)
        self._point(old)
        self._point(new)

    def _name_tools(self, exchange_id: str) -> None:
        rows = self._db.execute(
            f"select turn_id, tool_set from llmproxy_turns where {OF_EXCHANGE}", {"exchange": exchange_id}
        )
        for turn_id, tool_set in rows.fetchall():
            self._store.name_tools(turn_id, tool_set)

    def _point(self, thread: str) -> None:
        row = self._db.execute(
            "select max(exchange_id) from llmproxy_turns where thread_id = ?",
            [thread],
        ).fetchone()
        if row[0] is not None:
            self._store.point_thread(thread, row[0])
        else:
            self._db.execute("delete from threads where id = ?", [thread])

    def _children(self, parent: str, child: str | None = None) -> list[_Child]:
        sql = "select distinct exchange_id, thread_id, kin from llmproxy_turns where "
        if child is not None:
            rows = self._db.execute(sql + "turn_id = ? and parent_exchange_id = ?", [child, parent])
        else:
            rows = self._db.execute(sql + "parent_exchange_id = ?", [parent])
        return [_Child(*row) for row in rows.fetchall()]

    def _column(self, exchange_id: str, column: str) -> Any:
        row = self._db.execute(f"select {column} from llmproxy_turns where turn_id = ?", [exchange_id]).fetchone()
        return row[0] if row is not None else None
