"""Writes exchanges into the database: each exactly once, with its turn and thread where there is one."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm import Tool
from llm.parts import Message
from sqlite_utils import Database

from llmproxy.capture.exchange import CROCKFORD, FORK_OF, Exchange
from llmproxy.headers import get
from llmproxy.parts import with_tool_names
from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.items import last_answer_id
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.other_paths import holds_no_conversation
from llmproxy.reconstruct.text import parse_object
from llmproxy.reconstruct.turn import Turn, Usage
from llmproxy.store.captured import read_tools
from llmproxy.store.conversation_key import answer_key, conversation_keys, exact_key
from llmproxy.store.exchanges import REPLAY_HEADER, REPLAYED, exchange_row, insert, known_exchanges, raw_bodies
from llmproxy.store.header_sets import HeaderSets
from llmproxy.store.items import Items, answered_items, last_reference
from llmproxy.store.llm_store import TurnStore
from llmproxy.store.normal_form import is_random, telling_ids
from llmproxy.store.parents import Parents, wanted
from llmproxy.store.threads import Answer, Threads


@dataclass(frozen=True, slots=True)
class Reading:
    """What ingest made of an exchange: the API it spoke and the turn, or the reason why there is none."""

    api: str | None
    turn: Turn | None
    reason: str | None


class DatabaseRecorder:
    """Writes into one open database, inside the caller's transaction.

    `raw`: of which exchanges the raw bodies are kept: `failed`, `all` or `none`.
    """

    def __init__(self, db: Database, raw: str) -> None:
        self._db = db
        self._raw = raw
        self._turns = TurnStore(db)
        self._parents = Parents(db.conn)
        self._items = Items(db.conn)
        self._threads = Threads(db.conn, self._turns)
        self._header_sets = HeaderSets(db.conn)

    def write(self, exchange: Exchange, reading: Reading) -> None:
        """Write an exchange that is not in the database yet."""
        self._write(exchange, reading)

    def rewrite(self, exchange: Exchange, reading: Reading) -> None:
        """Write an exchange anew that is in the database, with what is made of it now. Its raw bodies stay."""
        former = self._threads.leave(exchange.id)
        for at in itertools.count():
            if not self._turns.remove_turn(_turn_id(exchange.id, at)):
                break
        self._turns.remove_empty_thread(exchange.id)
        self._db.conn.execute("delete from llmproxy_exchange_rows where id = ?", [exchange.id])
        self._write(exchange, reading, keep_raw=True)
        if former is not None:
            self._threads.rejoin(exchange.id, former)

    def _write(self, exchange: Exchange, reading: Reading, *, keep_raw: bool = False) -> None:
        turn_id = thread_id = None
        api, turn, reason = reading.api, reading.turn, reading.reason
        if exchange.method == "GET" and turn is not None and not self._parents.awaits(turn.response_id, exchange.id):
            api = turn = None  # an answer that is here already, or to a question that is not
        replayed = self._is_replayed(exchange)
        if replayed:
            reason = REPLAYED
        elif turn is not None and _is_a_turn(exchange, turn):
            turn_id = exchange.id
            thread_id = self._write_turn(exchange, turn)
        failed = (
            reason is not None
            or exchange.outcome != "complete"
            or (exchange.status or 0) >= 400
            or (turn is not None and bool(turn.error or turn.notes))
        )
        # An upload that fails is tried again, whole; what it says is not what this database is for.
        failed = failed and not (api is None and holds_no_conversation(exchange.path))
        bodies = None
        if keep_raw or (not replayed and (self._raw == "all" or (self._raw == "failed" and failed))):
            bodies = raw_bodies(exchange)
        row = exchange_row(
            exchange,
            api=api,
            turn=turn,
            turn_id=turn_id,
            thread_id=thread_id,
            reason=reason,
            bodies=bodies,
        )
        row |= self._header_sets.columns("request", exchange.request_headers)
        row |= self._header_sets.columns("response", exchange.response_headers)
        insert(self._db.conn, "llmproxy_exchange_rows", row)

    def _is_replayed(self, exchange: Exchange) -> bool:
        """Whether the answer is one that is in this database already, or the replay's own error.

        An id that is not here is no reason to leave out a turn: it may be another database's, or some provider's
        invention.
        """
        if (exchange.status or 0) >= 400 and (get(exchange.response_headers, b"x-llmproxy-error") or b"").startswith(
            b"replay_"
        ):
            return True
        original = get(exchange.response_headers, REPLAY_HEADER)
        return original is not None and bool(known_exchanges(self._db.conn, [original.decode("latin-1")]))

    def _write_turn(self, exchange: Exchange, turn: Turn) -> str:
        asked_again = get(exchange.request_headers, FORK_OF)
        if asked_again is not None:
            return self._write_fork(exchange, turn, asked_again.decode("latin-1"))
        parent = self._parents.pointed_at(exchange.id, turn)
        reference = last_reference(turn.input)
        turn = self._items.whole(turn, exchange.id)
        if parent is not None:
            history, tools = self._turns.history(parent.turn_id), read_tools(self._db.conn, parent.turn_id)
            turn = whole_turn(turn, history, tools, parent.instructions)
        input = turn.input
        asked = conversation_keys(input)
        hint = wanted(asked, turn, reference)
        if parent is None:
            parent = self._parents.continued(exchange.id, asked, hint)
        refused = _refused_call(turn)
        item = _item_id(turn)
        naming = [item] if item is not None and is_random(item) else []
        answers = [
            Answer(
                _turn_id(exchange.id, at),
                answer_key(asked, input, [*output.messages, *refused], forced=_is_forced(turn)),
                exact_key(output.messages),
                item,
                [*telling_ids(output.messages), *naming],
                answered_items(turn) if at == 0 else (),
            )
            for at, output in enumerate(turn.outputs)
        ]
        tool_set = self._turns.tool_set(turn.tools)
        place = self._threads.add(exchange.id, turn, parent=parent, wanted=hint, answers=answers, tool_set=tool_set)
        self._turns.ensure_thread(place.thread_id, input, place.forked_from, exchange.started)
        self._write_answers(exchange, turn, place.thread_id, input, tool_set if place.new_tools else None)
        self._threads.settle(exchange.id, parent, answers)
        return self._threads.thread_of(exchange.id)

    def _write_fork(self, exchange: Exchange, turn: Turn, asked_again: str) -> str:
        """A turn that asks another one again. It stays out of the index that finds threads."""
        row = self._db.conn.execute("select thread_id from turns where id = ?", [asked_again]).fetchone()
        forked_from = row[0] if row is not None else None
        self._turns.ensure_thread(exchange.id, turn.input, forked_from, exchange.started)
        self._write_answers(exchange, turn, exchange.id, turn.input, self._turns.tool_set(turn.tools))
        self._turns.point_thread(exchange.id, exchange.id)
        return exchange.id

    def _write_answers(
        self, exchange: Exchange, turn: Turn, thread_id: str, input: Sequence[Message], tool_set: int | None
    ) -> None:
        duration = None if exchange.duration_us is None else round(exchange.duration_us / 1000)
        # The first answer last, so that the thread ends with it.
        for at, output in reversed(list(enumerate(turn.outputs))):
            self._turns.write_turn(
                # The provider reports the usage of all answers in one, and sums over turns are to come out right.
                replace(turn, usage=Usage(), response_json=None) if at else turn,
                output,
                turn_id=_turn_id(exchange.id, at),
                thread_id=thread_id,
                input=input,
                tool_set=tool_set,
                started=exchange.started,
                milliseconds=duration,
            )


def _is_a_turn(exchange: Exchange, turn: Turn) -> bool:
    """Whether a model answered. A call that was refused or broke off before its answer is kept as an exchange only, as
    `llm` logs none for it."""
    return bool(turn.outputs) and exchange.status is not None and exchange.status < 400


def _is_forced(turn: Turn) -> bool:
    """Whether the request left the model no choice but to call a tool."""
    choice = turn.options.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    return kind in ("required", "any", "function", "tool")


def _refused_call(turn: Turn) -> list[Message]:
    """The call of a tool that the provider refused because its arguments do not fit: Groq tells of it inside the error
    alone, and clients send it back as if it had been the answer."""
    response = turn.response_json if isinstance(turn.response_json, dict) else {}
    error = response.get("error")
    generated = error.get("failed_generation") if isinstance(error, dict) else None
    notes = Notes()  # said where a client sends the call back
    call = parse_object(generated, notes) if isinstance(generated, str) else None
    if call is None or not isinstance(call.get("name"), str):
        return []
    return [Message("assistant", [call_part(call["name"], call.get("arguments"), None, notes)])]


def _item_id(turn: Turn) -> str | None:
    """The provider's id of what the model said last, where the API gives its items some (Responses)."""
    response = turn.response_json if isinstance(turn.response_json, dict) else {}
    return last_answer_id(response.get("output")) if turn.api == "responses" else None


def whole_turn(turn: Turn, history: Sequence[Message], tools: Sequence[Tool], instructions: int | None) -> Turn:
    """A turn whose request holds only what is new, with what the provider kept: the `history` and the `tools` of the
    turn that it points at.

    Instructions and tools are the request's own and not inherited in Responses (OpenAI: `previous_response_id`), a
    developer's message among the input items is; in Messages they are inherited and never the request's own (Anthropic:
    message threads).

    - `instructions`: how many messages of the history they are; None where that is not known, and a leading system
      message is taken for them.
    """
    if turn.api == "messages":
        return replace(turn, input=(*history, *with_tool_names(turn.input, history)), tools=turn.tools or tuple(tools))
    if instructions is None:
        instructions = int(bool(history) and history[0].role == "system")
    own, new = turn.input[: turn.instructions], turn.input[turn.instructions :]
    return replace(turn, input=(*own, *history[instructions:], *with_tool_names(new, history)))


def _turn_id(exchange_id: str, at: int) -> str:
    """The id of an exchange's answer: the first has the exchange's, the others one of the same millisecond."""
    if at == 0:
        return exchange_id
    digest = hashlib.blake2b(f"{exchange_id}:{at}".encode(), digest_size=16).digest()
    return exchange_id[:10] + "".join(CROCKFORD[byte & 31] for byte in digest)


__all__ = ["DatabaseRecorder", "Reading", "whole_turn"]
