"""Parents: which turn a request continues.

An explicit pointer names it (`previous_response_id`, `conversation`, or a reference to an item of its answer in place
of the request's last one); else it is the turn whose conversation, answer included, is the longest that the request's
messages begin with, compared by `conversation_key`: with tool-call ids first, without them as fallback; on a tie the
one whose answer has the id that the request sends back (Responses), be it as a call's, then one of the same session,
then of the same kin (API, model, system prompt, tools or none), then the newest. Where the history was rewritten
(compaction, an agent that cuts old messages out), the last tool call that the request echoes names the turn that made
it, or the id of the answer that it sends back (Responses) where there is no such call.

Only turns that began earlier are looked at, and every look-up is one in an index.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from llmproxy.parts import text_of
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.conversation_key import ConversationKeys, Key, exact_key
from llmproxy.store.normal_form import is_random, telling_ids

# Of equal candidates, so many of the newest are looked at, and as many of the same session.
_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Parent:
    """A turn that another continues. `instructions`: as `Turn` has them; None where they are not known."""

    turn_id: str
    exchange_id: str
    thread_id: str
    instructions: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request says of its parent: the keys of its last answer, the id that came back with it, the last tool call
    it echoes (or the id of the answer), its session and kin, and the item that its last answer is named by."""

    key: Key | None
    exact: bytes | None
    echoed: str | None
    call: str | None
    session: str | None
    kin: bytes
    item: str | None = None


def wanted(asked: ConversationKeys, turn: Turn, reference: str | None) -> Wanted:
    """What the request of a whole turn says of its parent.

    - `asked`: the keys of its input.
    - `reference`: the item that stood in place of its last answer.
    """
    named = telling_ids(turn.input)
    if not named and turn.echoed_item is not None and is_random(turn.echoed_item):
        named = [turn.echoed_item]
    is_pointing = turn.previous_response_id is not None or turn.conversation is not None
    return Wanted(
        key=asked.answers[-1] if asked.answers else None,
        exact=exact_key(turn.input),
        echoed=turn.echoed_item,
        call=named[-1] if named else None,
        session=turn.session,
        kin=_kin(turn),
        item=None if is_pointing else reference,
    )


def pointable_id(turn: Turn) -> str | None:
    """The provider's id of a response that later requests may point at: those of chat completions never are, those of
    Messages only in a message thread."""
    can_be = turn.api == "responses" or (turn.api == "messages" and "thread" in turn.options)
    return turn.response_id if can_be else None


def _kin(turn: Turn) -> bytes:
    system = text_of(message for message in turn.input if message.role == "system")
    return hashlib.blake2b(
        repr((turn.api, turn.model, system, bool(turn.tools))).encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()


class Parents:
    """Finds parents in the tables of one database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def pointed_at(self, exchange_id: str, turn: Turn) -> Parent | None:
        """The turn that the request points at by an id of the provider's, where we have it."""
        if turn.previous_response_id is not None:
            return self._newest("response_id", turn.previous_response_id, exchange_id)
        if turn.conversation is not None:
            return self._newest("conversation", turn.conversation, exchange_id)
        return None

    def awaits(self, response_id: str | None, before: str) -> bool:
        """Whether the response of this id is a turn that has no answer yet, of an exchange that began earlier."""
        row = self._db.execute(
            "select turns.tip_message_hash is turns.parent_message_hash from llmproxy_turns"
            " join turns on turns.id = llmproxy_turns.turn_id where response_id = ? and exchange_id < ?"
            " order by turn_id desc limit 1",
            [response_id, before],
        ).fetchone()
        return row is not None and bool(row[0])

    def continued(self, exchange_id: str, asked: ConversationKeys, wanted: Wanted) -> Parent | None:
        """The turn whose conversation is the longest that the request begins with."""
        if wanted.key is None and wanted.item is None:
            return None
        parent = self.by_last_answer(exchange_id, wanted)
        if parent is None:
            for key in self._known(asked.answers[:-1]):
                parent = self._by_key(exchange_id, key, wanted)
                if parent is not None:
                    break
        return parent

    def by_last_answer(self, exchange_id: str, wanted: Wanted) -> Parent | None:
        """The turn whose answer is the request's last one, or that made the last tool call that it echoes."""
        parent = (
            self._naming("llmproxy_items", "item_id", wanted.item, exchange_id) if wanted.item is not None else None
        )
        if parent is None and wanted.key is not None:
            parent = self._by_key(exchange_id, wanted.key, wanted)
        if parent is None and wanted.call is not None:
            parent = self._naming("llmproxy_tool_calls", "tool_call_id", wanted.call, exchange_id)
        return parent

    def _by_key(self, exchange_id: str, key: Key, wanted: Wanted) -> Parent | None:
        for column, value in (("answer_key", key.with_ids), ("answer_key_without_ids", key.without_ids)):
            columns = "turn_id, exchange_id, thread_id, answer_key_without_ids, answer_item, answer_exact, session, kin"
            equal = f"{column} = ? and exchange_id < ? order by turn_id desc limit {_CANDIDATES}"
            rows = self._db.execute(
                f"select {columns} from llmproxy_turns where {equal}", [value, exchange_id]
            ).fetchall()
            if len(rows) == _CANDIDATES and wanted.session is not None:
                # Those of its session may be older than all of these.
                of_session = f"session = ? and answer_key_without_ids = ? and {equal}"
                rows += self._db.execute(
                    f"select {columns} from llmproxy_turns where {of_session}",
                    [wanted.session, key.without_ids, value, exchange_id],
                )
            if rows:
                # Equal by one form: the other one, the item's id, that of a call, the answer to the letter, the session
                # and the kin break the tie, in this order; of those left the newest.
                named = self._named(wanted.call) if len(rows) > 1 else set()
                best = max(
                    rows,
                    key=lambda row: (
                        row[3] == key.without_ids,
                        wanted.echoed is not None and row[4] == wanted.echoed,
                        row[0] in named,
                        row[5] == wanted.exact,
                        wanted.session is not None and row[6] == wanted.session,
                        row[7] == wanted.kin,
                    ),
                )
                return Parent(*best[:3])
        return None

    def _naming(self, table: str, column: str, value: str, before: str) -> Parent | None:
        row = self._db.execute(
            f"select turn_id, exchange_id, thread_id from {table} join llmproxy_turns using (turn_id)"
            f" where {column} = ? and exchange_id < ? order by turn_id desc limit 1",
            [value, before],
        ).fetchone()
        return Parent(*row) if row is not None else None

    def _named(self, call: str | None) -> set[str]:
        """The turns that a tool call's id names. Some clients send a call back by the id of its item (chatlas)."""
        rows = self._db.execute("select turn_id from llmproxy_tool_calls where tool_call_id = ?", [call])
        return {row[0] for row in rows}

    def _known(self, keys: Sequence[Key]) -> list[Key]:
        """Which of the keys are some turn's answer, the longest conversation first."""
        found: set[bytes] = set()
        for at in range(0, len(keys), 400):
            some = keys[at : at + 400]
            marks = ",".join("?" * len(some))
            for column, values in (
                ("answer_key", [key.with_ids for key in some]),
                ("answer_key_without_ids", [key.without_ids for key in some]),
            ):
                rows = self._db.execute(
                    f"select distinct {column} from llmproxy_turns where {column} in ({marks})", values
                )
                found.update(row[0] for row in rows)
        return [key for key in reversed(keys) if key.with_ids in found or key.without_ids in found]

    def _newest(self, column: str, value: str, before: str) -> Parent | None:
        row = self._db.execute(
            "select turn_id, exchange_id, thread_id, instructions"
            f" from llmproxy_turns where {column} = ? and exchange_id < ?"
            " order by turn_id desc limit 1",
            [value, before],
        ).fetchone()
        return Parent(*row) if row is not None else None
