"""A response object as the event stream that would have said it, for each API that streams.

Reading the events gives the object again: `reconstruct` is the judge of that, in the tests. Text comes word by word,
since where it was split is known of raw bytes only.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

JsonObject = dict[str, Any]

_WORDS = re.compile(r"\s*\S+\s*")
_ARGUMENT_PIECES = re.compile(r".{1,16}", re.S)
_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "reasoning_details")
_TEXTS = (*_REASONING, "content", "refusal")
DONE = b"data: [DONE]\n\n"


def events_of(api: str | None, response: JsonObject, *, usage: bool) -> list[bytes] | None:
    """The events of a stream that says `response`; None for an API that does not stream.

    `usage`: whether the request asked for the usage at the end, which matters where `choices` come in chunks.
    """
    maker = _MAKERS.get(api or "")
    return list(maker(response, usage)) if maker is not None else None


def _chat(response: JsonObject, usage: bool) -> Iterator[bytes]:
    base = {**_without(response, "choices", "usage"), "object": "chat.completion.chunk"}
    for choice in _objects(response.get("choices")):
        beside = _without(choice, "message", "finish_reason", "logprobs")
        logprobs = choice.get("logprobs")
        message = choice.get("message")  # Azure leaves it out where its filter struck
        for delta in _chat_deltas(message) if isinstance(message, dict) else ():
            said = {**beside, "delta": delta, "logprobs": logprobs, "finish_reason": None}
            logprobs = None  # all with the first chunk: which belongs to which is not known
            yield _data({**base, "choices": [said]})
        yield _data({**base, "choices": [{**beside, "delta": {}, "finish_reason": choice.get("finish_reason")}]})
    if usage and response.get("usage") is not None:
        yield _data({**base, "choices": [], "usage": response["usage"]})
    yield DONE


def _chat_deltas(message: JsonObject) -> Iterator[JsonObject]:
    yield {"role": message.get("role", "assistant"), "content": "" if message.get("content") is not None else None}
    # A model thinks first; an unstreamed object may say so last. All else comes in the object's own order.
    for field in sorted(message, key=lambda field: field not in _REASONING):
        value = message[field]
        if field == "tool_calls":
            for at, call in enumerate(_objects(value)):
                yield from ({"tool_calls": [delta]} for delta in _tool_call_deltas(at, call))
        elif isinstance(value, str) and field in _TEXTS:
            yield from ({field: piece} for piece in _words(value))
        elif value is not None and field != "role":
            yield {field: value}


def _tool_call_deltas(at: int, call: JsonObject) -> Iterator[JsonObject]:
    for kind, said in (("function", "arguments"), ("custom", "input")):
        given = call.get(kind)
        if isinstance(given, dict) and isinstance(given.get(said), str):
            yield {"index": at, **call, kind: {**given, said: ""}}
            for piece in _ARGUMENT_PIECES.findall(given[said]):
                yield {"index": at, kind: {said: piece}}
            return
    yield {"index": at, **call}


def _completion(response: JsonObject, usage: bool) -> Iterator[bytes]:
    base = _without(response, "choices", "usage")
    for choice in _objects(response.get("choices")):
        for piece in _words(choice.get("text") or ""):
            yield _data({**base, "choices": [{**_without(choice, "logprobs"), "text": piece, "finish_reason": None}]})
        yield _data({**base, "choices": [{**choice, "text": ""}]})
    if usage and response.get("usage") is not None:
        yield _data({**base, "choices": [], "usage": response["usage"]})
    yield DONE


def _responses(response: JsonObject, usage: bool) -> Iterator[bytes]:
    status = response.get("status") or "completed"
    begun = {**response, "status": "in_progress", "output": []}
    begun |= {field: None for field in ("usage", "error", "incomplete_details") if field in response}
    events: list[JsonObject] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for at, item in enumerate(_objects(response.get("output"))):
        events += _item_events(at, item)
    last = status if status in ("completed", "incomplete", "failed") else "completed"
    events.append({"type": f"response.{last}", "response": response})
    for number, event in enumerate(events):
        yield _named({**event, "sequence_number": number})


def _item_events(at: int, item: JsonObject) -> Iterator[JsonObject]:
    place = {"item_id": item.get("id"), "output_index": at}
    begun = {**item}
    if "status" in item:
        begun["status"] = "in_progress"
    begun |= {field: [] for field in ("content", "summary") if isinstance(item.get(field), list)}
    written = {"function_call": "arguments", "custom_tool_call": "input"}.get(str(item.get("type")))
    if written is not None:
        begun[written] = ""
    yield {"type": "response.output_item.added", "output_index": at, "item": begun}
    for index, part in enumerate(_objects(item.get("summary"))):
        where = {**place, "summary_index": index}
        yield from _part_events("reasoning_summary_part", "reasoning_summary_text", "text", part, where)
    for index, part in enumerate(_objects(item.get("content"))):
        kind, field = {"refusal": ("refusal", "refusal"), "reasoning_text": ("reasoning_text", "text")}.get(
            str(part.get("type")), ("output_text", "text")
        )
        yield from _part_events("content_part", kind, field, part, {**place, "content_index": index})
    if written is not None and isinstance(item.get(written), str):
        kind = {"arguments": "function_call_arguments", "input": "custom_tool_call_input"}[written]
        for piece in _ARGUMENT_PIECES.findall(item[written]):
            yield {"type": f"response.{kind}.delta", **place, "delta": piece}
        yield {"type": f"response.{kind}.done", **place, written: item[written]}
    yield {"type": "response.output_item.done", "output_index": at, "item": item}


def _part_events(part_kind: str, kind: str, field: str, part: JsonObject, place: JsonObject) -> Iterator[JsonObject]:
    text = part.get(field)
    is_text = isinstance(text, str)
    begun = {**part, field: ""} if is_text else part
    if "annotations" in part:
        begun = {**begun, "annotations": []}
    yield {"type": f"response.{part_kind}.added", **place, "part": begun}
    if is_text:
        logprobs: JsonObject = {"logprobs": []} if kind == "output_text" else {}
        for piece in _words(text or ""):
            yield {"type": f"response.{kind}.delta", **place, "delta": piece, **logprobs}
        yield {"type": f"response.{kind}.done", **place, field: text, **logprobs}
    yield {"type": f"response.{part_kind}.done", **place, "part": part}


def _messages(response: JsonObject, usage: bool) -> Iterator[bytes]:
    used = response.get("usage") if isinstance(response.get("usage"), dict) else {}
    begun = {**response, "content": [], "stop_reason": None, "stop_sequence": None}
    if used:
        begun["usage"] = {**used, "output_tokens": 1}
    yield _named({"type": "message_start", "message": begun})
    for at, block in enumerate(_objects(response.get("content"))):
        start, deltas = _block(block)
        yield _named({"type": "content_block_start", "index": at, "content_block": start})
        for delta in deltas:
            yield _named({"type": "content_block_delta", "index": at, "delta": delta})
        yield _named({"type": "content_block_stop", "index": at})
    stop = {field: response.get(field) for field in ("stop_reason", "stop_sequence")}
    yield _named({"type": "message_delta", "delta": stop, "usage": used})
    yield _named({"type": "message_stop"})


def _block(block: JsonObject) -> tuple[JsonObject, list[JsonObject]]:
    """How a block starts, and the deltas that complete it."""
    match block:
        case {"type": "text", "text": str(text)}:
            cited = block.get("citations")
            deltas = [{"type": "text_delta", "text": piece} for piece in _words(text)]
            deltas += [{"type": "citations_delta", "citation": each} for each in cited or ()]
            return {**block, "text": "", **({"citations": []} if cited else {})}, deltas
        case {"type": "thinking", "thinking": str(text)}:
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in _words(text)]
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use", "input": dict(given)}:
            pieces = _ARGUMENT_PIECES.findall(json.dumps(given, ensure_ascii=False)) if given else []
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block, []


_MAKERS: Mapping[str, Callable[[JsonObject, bool], Iterator[bytes]]] = {
    "chat.completions": _chat,
    "completions": _completion,
    "responses": _responses,
    "messages": _messages,
}


def _words(text: str) -> list[str]:
    return _WORDS.findall(text) or ([text] if text else [])


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _without(fields: JsonObject, *names: str) -> JsonObject:
    return {name: value for name, value in fields.items() if name not in names}


def _data(event: JsonObject) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _named(event: JsonObject) -> bytes:
    kind: str = event["type"]
    return f"event: {kind}\n".encode() + _data(event)
