"""A model of `llm` at work: its answer piece by piece, from a coroutine or from a thread."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import llm
from llm.models import AsyncModel, Model, ModelWithAliases, ToolCall
from llm.parts import StreamEvent

from llmproxy.inprocess.llm_models_pieces import Finished, Piece, Pieces
from llmproxy.inprocess.llm_models_request import Call

# Pieces that a model in a thread may be ahead of its reader.
_AHEAD = 8

_ModelT = TypeVar("_ModelT", Model, AsyncModel)


class ModelFailed(Exception):
    """The model, or the provider behind it, failed. The message is its own."""


class NoKey(Exception):
    """There is no key for the model. The message says how to set one."""


async def answer(
    model: ModelWithAliases, call: Call, key: str | None, gate: asyncio.Semaphore
) -> AsyncGenerator[Piece | Finished]:
    """Prompt the model and give what it says as it says it, `Finished` at the end. Closing it stops the model.

    A model without an async form answers in a thread of its own, once `gate` lets it in. `key` is used as it is; None
    for the one that `llm` has.

    Raises `NoKey` and `ModelFailed`.
    """
    pieces = Pieces()
    try:
        if model.async_model is not None:
            events = _async_events(_with_key(model.async_model, key), call)
        else:
            events = _threaded_events(_with_key(model.model, key), call, gate)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, StreamEvent):
                    for piece in pieces.of_event(event):
                        yield piece
                else:
                    for piece in pieces.of_calls(event.tool_calls):
                        yield piece
                    yield Finished(event.input_tokens, event.output_tokens)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _failure(exc) from exc  # the plug-in's own: nobody cancelled us
    except (ModelFailed, NoKey):
        raise
    except (Exception, SystemExit) as exc:  # a plug-in, or the provider's package that it uses, raises what it likes
        raise _failure(exc) from exc


@dataclass(frozen=True, slots=True)
class _End:
    input_tokens: int | None
    output_tokens: int | None
    tool_calls: Sequence[ToolCall]


def _failure(error: BaseException) -> ModelFailed | NoKey:
    if isinstance(error, llm.NeedsKeyException):
        return NoKey(str(error))
    kind, message = type(error).__name__, str(error)
    return ModelFailed(f"{kind}: {message}" if message else kind)


def _with_key(model: _ModelT, key: str | None) -> _ModelT:
    """The model with a key of its own, which `llm` takes as it is; one that a prompt is given it looks up by name
    first, and plug-ins without `key=` never see it. A copy, since others use the model at the same time."""
    if key is None:
        return model
    own = copy(model)
    own.key = key
    return own


def _arguments(call: Call) -> dict[str, Any]:
    return {
        "prompt": call.prompt,
        "attachments": list(call.attachments) or None,
        "system": call.system,
        "messages": list(call.history),
        "tools": list(call.tools) or None,
        "schema": dict(call.schema) if call.schema is not None else None,
        "options": dict(call.options),
        "stream": call.stream,
    }


async def _async_events(model: AsyncModel, call: Call) -> AsyncGenerator[StreamEvent | _End]:
    response = model.prompt(**_arguments(call))
    async with aclosing(response.astream_events()) as events:
        async for event in events:
            yield event
    yield _End(response.input_tokens, response.output_tokens, await response.tool_calls())


async def _threaded_events(model: Model, call: Call, gate: asyncio.Semaphore) -> AsyncGenerator[StreamEvent | _End]:
    """A model that only works synchronously runs in a thread, a few pieces ahead of its reader and no further."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[StreamEvent | _End | BaseException] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    stopped = False

    def put(piece: StreamEvent | _End | BaseException) -> bool:
        """Whether anybody reads on."""
        if not stopped:
            room.acquire()
        if not stopped:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)
        return not stopped

    def prompt() -> None:
        try:
            response = model.prompt(**_arguments(call))
            with closing(response.stream_events()) as events:
                for event in events:
                    if not put(event):
                        return
            put(_End(response.input_tokens, response.output_tokens, response.tool_calls()))
        except BaseException as exc:  # it is raised where the answer is read
            put(exc)

    def work() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads, nobody waits
            try:
                prompt()
            finally:
                loop.call_soon_threadsafe(gate.release)

    # Held until the thread has left the model, however its reader ends.
    await gate.acquire()
    # A daemon: a model that hangs does not keep the process from ending.
    thread = threading.Thread(target=work, name=f"llm-model-{model.model_id}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no thread left
        gate.release()
        raise
    try:
        while True:
            piece = await pieces.get()
            room.release()
            if isinstance(piece, BaseException):
                raise _failure(piece) from piece
            yield piece
            if isinstance(piece, _End):
                return
    finally:
        stopped = True
        # The thread may be waiting for room: it now sees that it is to stop.
        room.release()
