"""The mock's Responses (https://platform.openai.com/docs/api-reference/responses, …/responses-streaming)."""

from collections.abc import Iterator, Sequence

from llmproxy.inprocess import mock_objects
from llmproxy.inprocess.mock_answer import Reply, ToolCall, argument_pieces, words
from llmproxy.inprocess.mock_dialect import Answer
from llmproxy.inprocess.mock_responses_request import custom_tools, read
from llmproxy.inprocess.openai_objects import Head, JsonObject, error_object
from llmproxy.inprocess.openai_objects import named_event as frame

__all__ = [
    "CALL_ID",
    "GARBAGE",
    "RESPONSE_ID",
    "STREAM_END",
    "error_event",
    "error_object",
    "events",
    "frame",
    "read",
    "usage_of",
    "whole",
]

RESPONSE_ID = "resp_"
CALL_ID = "call_"
STREAM_END: tuple[bytes, ...] = ()
GARBAGE = b'event: response.created\ndata: {"this is": no JSON\n\n'

# Finish reasons of Chat Completions, and why the response is then incomplete.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What of the request is said again, and what is said where the request does not (API reference, the response object).
_ECHOED: JsonObject = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def usage_of(prompt_tokens: int, replies: Sequence[Reply], price: float | None) -> JsonObject:
    usage = mock_objects.usage_of(prompt_tokens, replies, price)
    cost = {"cost": usage["cost"]} if "cost" in usage else {}
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
        **cost,
    }


def whole(answer: Answer) -> JsonObject:
    (reply,) = answer.replies
    reason = _INCOMPLETE.get(reply.finish_reason)
    return {
        **_base(answer, "incomplete" if reason else "completed"),
        "incomplete_details": {"reason": reason} if reason else None,
        "output": _items(answer),
        "usage": answer.usage,
    }


def events(answer: Answer) -> Iterator[JsonObject]:
    for number, event in enumerate(_events(answer)):
        yield {**event, "sequence_number": number}


def error_event(error: JsonObject, position: int) -> JsonObject:
    said = error["error"]
    fields = {field: said.get(field) for field in ("code", "message", "param")}
    return {"type": "error", **fields, "sequence_number": position}


def _base(answer: Answer, status: str) -> JsonObject:
    echoed = {
        field: usual if answer.body.get(field) is None else answer.body[field] for field, usual in _ECHOED.items()
    }
    return {
        "id": answer.head.id,
        "object": "response",
        "created_at": answer.head.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": answer.head.model,
        "output": [],
        **echoed,
        "usage": None,
    }


def _items(answer: Answer) -> list[JsonObject]:
    (reply,) = answer.replies
    items: list[JsonObject] = []
    if reply.reasoning:
        summary = [{"type": "summary_text", "text": reply.reasoning}]
        items.append({"id": _id("rs_", answer.head), "type": "reasoning", "summary": summary})
    if reply.chunks or not reply.tool_calls:
        items.append(
            {
                "id": _id("msg_", answer.head),
                "type": "message",
                "status": "incomplete" if reply.finish_reason in _INCOMPLETE else "completed",
                "role": "assistant",
                "content": [_text(reply.text)],
            }
        )
    custom = custom_tools(answer.body)
    for position, call in enumerate(reply.tool_calls):
        items.append(_call(answer.head, position, call, is_custom=call.name in custom))
    return items


def _call(head: Head, position: int, call: ToolCall, *, is_custom: bool) -> JsonObject:
    kind, field = ("custom_tool_call", "input") if is_custom else ("function_call", "arguments")
    return {
        "id": f"{_id('ctc_' if is_custom else 'fc_', head)}{position}",
        "type": kind,
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        field: call.arguments,
    }


def _text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _id(prefix: str, head: Head) -> str:
    return prefix + head.id.removeprefix(RESPONSE_ID)


def _events(answer: Answer) -> Iterator[JsonObject]:
    begun = _base(answer, "in_progress")
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    response = whole(answer)
    (reply,) = answer.replies
    for index, item in enumerate(response["output"]):
        place = {"item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
        if item["type"] == "message":
            part = item["content"][0]
            yield from _part_events("content_part", "output_text", part, reply.chunks, {**place, "content_index": 0})
        elif item["type"] == "reasoning":
            where = {**place, "summary_index": 0}
            pieces = words(reply.reasoning)
            yield from _part_events(
                "reasoning_summary_part", "reasoning_summary_text", item["summary"][0], pieces, where
            )
        else:
            yield from _call_events(item, place)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _begun(item: JsonObject) -> JsonObject:
    """An item as it is announced: without what is still to come."""
    empty = {"content": [], "summary": [], "arguments": "", "input": "", "status": "in_progress"}
    return {field: empty.get(field, value) for field, value in item.items()}


def _part_events(
    part_kind: str, kind: str, part: JsonObject, pieces: Sequence[str], place: JsonObject
) -> Iterator[JsonObject]:
    logprobs: JsonObject = {"logprobs": []} if kind == "output_text" else {}
    yield {"type": f"response.{part_kind}.added", **place, "part": {**part, "text": ""}}
    for piece in pieces:
        yield {"type": f"response.{kind}.delta", **place, "delta": piece, **logprobs}
    yield {"type": f"response.{kind}.done", **place, "text": part["text"], **logprobs}
    yield {"type": f"response.{part_kind}.done", **place, "part": part}


def _call_events(item: JsonObject, place: JsonObject) -> Iterator[JsonObject]:
    is_custom = item["type"] == "custom_tool_call"
    kind, field = ("custom_tool_call_input", "input") if is_custom else ("function_call_arguments", "arguments")
    for piece in argument_pieces(item[field]):
        yield {"type": f"response.{kind}.delta", **place, "delta": piece}
    name = {} if is_custom else {"name": item["name"]}
    yield {"type": f"response.{kind}.done", **place, **name, field: item[field]}
