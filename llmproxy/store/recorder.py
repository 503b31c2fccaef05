"""Writes exchanges into the database: each exactly once, with its turn and thread where there is one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from llm.parts import Message
from sqlite_utils import Database

from llmproxy.capture.exchange import CROCKFORD, FORK_OF, Exchange
from llmproxy.headers import get
from llmproxy.reconstruct.arguments import call_part
from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.text import parse_object
from llmproxy.reconstruct.turn import Turn
from llmproxy.store.conversation_key import answer_key, conversation_keys, exact_key
from llmproxy.store.exchanges import REPLAY_HEADER, REPLAYED, exchange_row, insert, known_exchanges
from llmproxy.store.llm_store import TurnStore
from llmproxy.store.normal_form import telling_ids
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
        self._threads = Threads(db.conn, self._turns)

    def write(self, exchange: Exchange, reading: Reading) -> None:
        """Write an exchange that is not in the database yet."""
        turn_id = thread_id = None
        turn = reading.turn
        reason = reading.reason
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
        row = exchange_row(
            exchange,
            api=reading.api,
            turn=turn,
            turn_id=turn_id,
            thread_id=thread_id,
            reason=reason,
            keep_raw=not replayed and (self._raw == "all" or (self._raw == "failed" and failed)),
        )
        insert(self._db.conn, "llmproxy_exchanges", row)

    def rewrite(self, exchange: Exchange, reading: Reading) -> None:
        """Write an exchange anew that is in the database, with what is made of it now. Its raw bodies stay."""
        self._threads.remove(exchange.id)
        self._db.conn.execute("delete from llmproxy_exchanges where id = ?", [exchange.id])
        self.write(exchange, reading)

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
        input = effective_input(turn, self._turns.history(parent.turn_id)) if parent else list(turn.input)
        asked = conversation_keys(input)
        hint = wanted(asked, input, turn)
        if parent is None:
            parent = self._parents.continued(exchange.id, asked, hint)
        refused = _refused_call(turn)
        answers = [
            Answer(
                _turn_id(exchange.id, at),
                answer_key(asked, input, [*output.messages, *refused]),
                exact_key(output.messages),
                telling_ids(output.messages),
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
                turn,
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


def effective_input(turn: Turn, history: Sequence[Message]) -> list[Message]:
    """The whole input of a request that holds only what is new: the provider prepends the `history` it kept.

    Instructions are the request's own and not inherited (OpenAI, Responses: `previous_response_id`).
    """
    own_system = [message for message in turn.input[:1] if message.role == "system"]
    kept = [message for at, message in enumerate(history) if at > 0 or message.role != "system"]
    return [*own_system, *kept, *turn.input[len(own_system) :]]


def _turn_id(exchange_id: str, at: int) -> str:
    """The id of an exchange's answer: the first has the exchange's, the others one of the same millisecond."""
    if at == 0:
        return exchange_id
    digest = hashlib.blake2b(f"{exchange_id}:{at}".encode(), digest_size=16).digest()
    return exchange_id[:10] + "".join(CROCKFORD[byte & 31] for byte in digest)


__all__ = ["DatabaseRecorder", "Reading", "effective_input"]
