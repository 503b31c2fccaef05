"""Writes chosen turns in a format, line by line, so that memory does not grow with their number."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Literal, get_args

from llmproxy.export.exchanges import har_entry, har_head, raw, read_exchange
from llmproxy.export.messages import NotExportable, evals, fine_tuning, llm_messages
from llmproxy.export.redaction import Redaction
from llmproxy.store.captured import CapturedTurn, read_turn

Format = Literal["openai-finetune", "openai-evals", "llm", "raw", "har"]
FORMATS: tuple[Format, ...] = get_args(Format)

_MESSAGES: Mapping[str, Callable[[CapturedTurn], dict[str, Any]]] = {
    "openai-finetune": fine_tuning,
    "openai-evals": evals,
    "llm": llm_messages,
}


@dataclass(slots=True)
class Exported:
    """How many turns were written, how many were left out and why, and how many were written without their bytes."""

    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    without_bytes: int = 0


def write_turns(
    database: sqlite3.Connection, turn_ids: Sequence[str], format: Format, redaction: Redaction, output: IO[str]
) -> Exported:
    """Write turns to `output`: JSON Lines, or for `har` one JSON document."""
    exported = Exported()
    before, after = har_head() if format == "har" else ("", "")
    output.write(before)
    for turn_id in turn_ids:
        try:
            line = _line(database, turn_id, format, redaction, exported)
        except NotExportable as exc:
            exported.left_out[str(exc)] += 1
            continue
        if format == "har":
            output.write(",\n" if exported.written else "\n")
        # A lone surrogate, which JSON from a provider may hold, has no UTF-8.
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode()
        output.write(text if format == "har" else text + "\n")
        exported.written += 1
    output.write(after + "\n" if after else "")
    return exported


def _line(
    database: sqlite3.Connection, turn_id: str, format: Format, redaction: Redaction, exported: Exported
) -> dict[str, Any]:
    if format in _MESSAGES:
        turn = read_turn(database, turn_id)
        if turn is None:
            raise KeyError(turn_id)
        line: dict[str, Any] = redaction.value(_MESSAGES[format](turn))
        return line
    exchange = read_exchange(database, turn_id)
    exported.without_bytes += not exchange.kept
    return har_entry(exchange, redaction) if format == "har" else raw(exchange, redaction)
