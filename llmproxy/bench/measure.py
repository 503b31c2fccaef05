"""What is known of an answer: the same measures for one that has just come and for a captured one."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from llm.parts import Message, ToolCallPart

from llmproxy.bench.results import Prompt, Result
from llmproxy.parts import arguments_json, text_of
from llmproxy.reconstruct.turn import Turn, Usage
from llmproxy.store.captured import CapturedTurn
from llmproxy.tokens import counted


@dataclass(frozen=True, slots=True)
class Answered:
    """How a call ended.

    - `status`: None where no answer came; `error`: what went wrong, in one line; `turn`: what was said, where it could
      be read. Times are milliseconds from the start.
    - `retry_after`: seconds that the provider wants us to wait, where it said so; `passing`: trying again may help.
    """

    status: int | None
    turn: Turn | None
    error: str | None
    started_utc: str
    first_byte_ms: float | None
    duration_ms: float
    passing: bool = False
    retry_after: float | None = None


def prompt_of(turn: CapturedTurn) -> Prompt:
    """The captured turn as a prompt."""
    users = [message for message in turn.input if message.role == "user"]
    text = text_of(users[-1:]) or text_of(turn.input[-1:])
    return Prompt(turn.id, turn.model, text, len(turn.input), turn.upstream)


def measured(
    prompt: str, target: str, repeat: int, answered: Answered, *, attempts: int, notes: Sequence[str]
) -> Result:
    """The result of a call."""
    turn = answered.turn
    output = turn.outputs[0] if turn is not None and turn.outputs else None
    first_token = turn.first_token_us if turn is not None else None
    usage = turn.usage if turn is not None else Usage()
    return Result(
        prompt=prompt,
        target=target,
        repeat=repeat,
        status="done" if answered.error is None else "failed",
        error=answered.error,
        http_status=answered.status,
        attempts=attempts,
        started_utc=answered.started_utc,
        first_byte_ms=answered.first_byte_ms,
        first_token_ms=first_token / 1000 if first_token is not None else None,
        duration_ms=answered.duration_ms,
        finish_reason=output.finish_reason if output else None,
        text=text_of(output.messages) if output else "",
        tool_calls=_calls(output.messages) if output else (),
        notes=tuple(notes),
        **asdict(counted(usage.input_tokens, usage.output_tokens, usage.details)),
    )


def recorded(turn: CapturedTurn, prompt: str, target: str, repeat: int = 0) -> Result:
    """The result that a captured turn is."""
    return Result(
        prompt=prompt,
        target=target,
        repeat=repeat,
        status="done",
        turn_id=turn.id,
        http_status=turn.status,
        started_utc=turn.started_utc,
        first_byte_ms=turn.first_byte_ms,
        first_token_ms=turn.first_token_ms,
        duration_ms=turn.duration_ms,
        finish_reason=turn.finish_reason,
        text=text_of(turn.output),
        tool_calls=_calls(turn.output),
        **asdict(counted(turn.input_tokens, turn.output_tokens, turn.token_details)),
    )


def _calls(messages: Iterable[Message]) -> tuple[tuple[str, str], ...]:
    """The calls that the client is to make."""
    return tuple(
        (part.name, arguments_json(part))
        for message in messages
        for part in message.parts
        if isinstance(part, ToolCallPart) and not part.server_executed
    )
