"""A model's answer as a chat completion, whole or streamed."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from llmproxy.inprocess.completion_response import CompletionResponse
from llmproxy.inprocess.llm_models_answer import ModelFailed, NoKey
from llmproxy.inprocess.llm_models_pieces import Finished, Piece
from llmproxy.inprocess.llm_models_request import Call
from llmproxy.inprocess.openai_objects import (
    JsonObject,
    chat_choice,
    chat_completion,
    chat_completion_chunk,
    chat_delta,
    error_object,
    event,
)


class Completion(CompletionResponse):
    """The chat completion, sent while the model answers."""

    failures = (ModelFailed, NoKey)

    def __init__(self, call: Call, name: str, pieces: Callable[[], AsyncGenerator[Piece | Finished]]) -> None:
        super().__init__(name, stream=call.stream)
        self._call = call
        self._pieces = pieces
        self._called = False
        self._finished = Finished(None, None)

    async def whole(self) -> JsonObject:
        said: list[Piece] = []
        async with aclosing(self._said()) as pieces:
            async for piece in pieces:
                said.append(piece)
        content = "".join(piece.text for piece in said if piece.kind == "content")
        reasoning = "".join(piece.text for piece in said if piece.kind == "reasoning")
        calls: list[JsonObject] = []
        for piece in said:
            if piece.kind == "call":
                calls.append(_call(piece))
            elif piece.kind == "arguments":
                calls[piece.index]["function"]["arguments"] += piece.text
        message: JsonObject = {"role": "assistant", "content": content if content or not calls else None}
        message |= {"refusal": None}
        message |= {"reasoning_content": reasoning} if reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        usage = {"usage": usage} if (usage := _usage(self._finished)) else {}
        return chat_completion(self._head, [chat_choice(0, message, self._finish_reason())], **usage)

    async def chunks(self) -> AsyncGenerator[list[bytes]]:
        async with aclosing(self._said()) as pieces:
            async for piece in pieces:
                yield [self.delta(**_delta(piece))]

    def last_chunks(self) -> list[bytes]:
        events = [event(chat_completion_chunk(self._head, [chat_delta(0, self._finish_reason())]))]
        if self._call.usage_in_stream and (usage := _usage(self._finished)):
            events.append(event(chat_completion_chunk(self._head, [], usage=usage)))
        return events

    def error(self, failure: Exception) -> JsonObject:
        return failure_object(failure)

    async def _said(self) -> AsyncGenerator[Piece]:
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    self._finished = piece
                else:
                    self._called = self._called or piece.kind == "call"
                    yield piece

    def _finish_reason(self) -> str:
        return "tool_calls" if self._called else "stop"


def _call(piece: Piece) -> JsonObject:
    return {"id": piece.id, "type": "function", "function": {"name": piece.text, "arguments": ""}}


def _delta(piece: Piece) -> JsonObject:
    match piece.kind:
        case "content":
            return {"content": piece.text}
        case "reasoning":
            return {"reasoning_content": piece.text}
        case "call":
            return {"tool_calls": [{"index": piece.index, **_call(piece)}]}
        case "arguments":
            return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}


def _usage(finished: Finished) -> JsonObject | None:
    """Only what the model reported: where it says nothing, neither do we."""
    if finished.input_tokens is None and finished.output_tokens is None:
        return None
    input, output = finished.input_tokens or 0, finished.output_tokens or 0
    return {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}


def failure_object(error: Exception) -> JsonObject:
    """What `NoKey` and `ModelFailed` are to the client."""
    if isinstance(error, NoKey):
        return error_object(401, str(error))
    return error_object(502, str(error), code="model_failed")
