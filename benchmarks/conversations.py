"""Conversations, turn by turn, as a client and a provider would have had them."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.messages import compact, completion, event, text
from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.headers import Headers
from llmproxy.metrics import Metrics

REQUEST_HEADERS: Headers = (
    (b"host", b"127.0.0.1:11435"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python 2.8.0"),
    (b"x-stainless-lang", b"python"),
    (b"authorization", b"Bearer sk-benchmark"),
)
JSON_HEADERS: Headers = ((b"content-type", b"application/json"), (b"x-request-id", b"req_0123456789abcdef"))
STREAM_HEADERS: Headers = ((b"content-type", b"text/event-stream"), (b"x-request-id", b"req_0123456789abcdef"))
TOOLS = 30
SYSTEM_PROMPT_BYTES = 20_000

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange: the request's body, and the pieces of the response's."""

    request: bytes
    response: tuple[bytes, ...]
    streamed: bool = False


def short_turns(count: int) -> Iterator[Call]:
    """A question of 700 bytes and an answer of 800 each, each a conversation of its own."""
    for at in range(count):
        yield _call([_user(f"question {at}: {text(700)}")], f"answer {at}: {text(800)}")


def streamed_turns(count: int, chunks: int) -> Iterator[Call]:
    """A question of 700 bytes, answered in so many chunks, each a conversation of its own."""
    for at in range(count):
        request = {"model": "benchmark", "stream": True, "messages": [_user(f"question {at}: {text(700)}")]}
        words = (event({"content": f"{at}.{word} "}) for word in range(chunks))
        pieces = (event({"role": "assistant", "content": ""}), *words, event({}, "stop"), b"data: [DONE]\n\n")
        yield Call(compact(request), pieces, streamed=True)


def long_conversations(conversations: int, turns: int, messages: int = 200) -> Iterator[Call]:
    """Conversations of `messages` messages of 100 bytes that come with their first request; each goes on for `turns`.

    The turns of all conversations come in alternation.
    """
    histories = [
        [(_user if at % 2 == 0 else _assistant)(f"{which}.{at}: {text(100)}") for at in range(messages - 1)]
        for which in range(conversations)
    ]
    for turn in range(turns):
        for which, history in enumerate(histories):
            answer = f"{which}, turn {turn}: {text(100)}"
            yield _call(history, answer)
            history += [_assistant(answer), _user(f"{which}, go on from {turn}: {text(100)}")]


def agent(turns: int, result_bytes: int = 1500) -> Iterator[Call]:
    """An agent at work: 30 tools and a system prompt of 20 KB, sent in full each turn with the history.

    Each answer calls a tool; the next request holds its result.
    """
    tools = [_tool(at) for at in range(TOOLS)]
    history = [{"role": "system", "content": text(SYSTEM_PROMPT_BYTES)}, _user("Mend the failing test.")]
    for turn in range(turns):
        call = {
            "id": f"call_{turn:024d}",
            "type": "function",
            "function": {"name": f"tool_{turn % TOOLS}", "arguments": json.dumps({"path": f"src/{turn}.py"})},
        }
        answer = {"role": "assistant", "content": f"Step {turn}: {text(200)}", "tool_calls": [call]}
        response = completion("")
        response["choices"][0] |= {"message": answer, "finish_reason": "tool_calls"}
        yield Call(compact({"model": "benchmark", "tools": tools, "messages": history}), (compact(response),))
        history += [answer, {"role": "tool", "tool_call_id": call["id"], "content": f"{turn}: {text(result_bytes)}"}]


def unique_bytes(calls: Iterable[Call]) -> int:
    """The bytes that are left when each message and each tool counts once, and each response in full."""
    seen: set[bytes] = set()
    responses = 0
    for call in calls:
        request = json.loads(call.request)
        seen.update(compact(one) for one in (*request["messages"], *request.get("tools", ())))
        responses += sum(map(len, call.response))
    return sum(map(len, seen)) + responses


def fill(spool: Path, calls: Iterable[Call]) -> int:
    """Record calls into a spool, as the serving process does. Returns how many."""
    return asyncio.run(_fill(spool, calls))


async def _fill(spool: Path, calls: Iterable[Call]) -> int:
    writer = SpoolWriter(spool)  # its timer needs the event loop
    tee = Tee(writer, Metrics(), max_body_bytes=32 * 1024 * 1024)
    count = 0
    for call in calls:
        record(tee, call)
        count += 1
    writer.close()
    return count


def record(tee: Tee, call: Call) -> None:
    """One exchange through the tee, from its beginning to its end."""
    recording = tee.begin(RequestHead("default", None, "POST", b"/v1/chat/completions", REQUEST_HEADERS))
    recording.request_body(call.request)
    recording.request_written()
    recording.response(200, STREAM_HEADERS if call.streamed else JSON_HEADERS)
    for piece in call.response:
        recording.response_body(piece)
    recording.end("complete")


def _call(messages: list[Message], answer: str) -> Call:
    return Call(
        compact({"model": "benchmark", "temperature": 0.2, "messages": messages}), (compact(completion(answer)),)
    )


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _tool(at: int) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text(80)} for name in ("path", "pattern", "content")}
    return {
        "type": "function",
        "function": {
            "name": f"tool_{at}",
            "description": f"Tool {at}: {text(300)}",
            "parameters": {"type": "object", "properties": properties, "required": ["path"]},
        },
    }
