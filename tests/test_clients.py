"""The providers' own packages give their users the same objects through the proxy as without it."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import sqlite_utils
from llm.default_plugins.openai_models import Chat

from llmproxy.config import CaptureConfig
from tests.corpus import Player, Record, fixture_records
from tests.proxy import Program, eventually, serving
from tests.raw_upstream import Connection, RawRequest, answer, raw_upstream

RECORDS = fixture_records()


def records(api: str) -> list[Record]:
    return [record for record in RECORDS if record.api == api and record.status == 200]


def names(of: list[Record]) -> list[str]:
    return [record.id for record in of]


@contextmanager
def both(tmp_path: Path, record: Record) -> Iterator[tuple[list[str], Program]]:
    """The base URLs of a provider that plays the record: itself, and the proxy in front of it."""
    with raw_upstream(Player([record])) as up:
        with serving(tmp_path, "--upstream", f"{up.url}/v1") as program:
            yield [f"{up.url}/v1", f"{program.url}/v1"], program


def objects(call: Callable[[], Any]) -> list[Any]:
    """What a user of the package gets: the object, the events of a stream, or the error."""
    try:
        answer = call()
        if hasattr(answer, "model_dump"):
            return [answer.model_dump(warnings=False)]
        return [event.model_dump(warnings=False) for event in answer]
    except (openai.APIError, anthropic.APIError, json.JSONDecodeError) as exc:  # OpenRouter's [DONE] is no JSON
        return [type(exc).__name__, str(exc)]


@pytest.mark.parametrize("record", records("chat.completions"), ids=names(records("chat.completions")))
def test_openai_chat_completions(tmp_path: Path, record: Record) -> None:
    with both(tmp_path, record) as (urls, program):
        got = []
        for url in urls:
            with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
                create: Any = client.chat.completions.create
                messages = [{"role": "user", "content": "played"}]
                headers = {"x-record": record.id}
                got.append(
                    objects(
                        functools.partial(
                            create, model="m", messages=messages, stream=record.stream, extra_headers=headers
                        )
                    )
                )
        assert got[0] == got[1] and got[0]
        program.exchanges(1)


@pytest.mark.parametrize("record", records("responses"), ids=names(records("responses")))
def test_openai_responses(tmp_path: Path, record: Record) -> None:
    with both(tmp_path, record) as (urls, program):
        got = []
        for url in urls:
            with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
                create: Any = client.responses.create
                headers = {"x-record": record.id}
                got.append(
                    objects(
                        functools.partial(
                            create, model="m", input="played", stream=record.stream, extra_headers=headers
                        )
                    )
                )
        assert got[0] == got[1] and got[0]
        program.exchanges(1)


@pytest.mark.parametrize("record", records("messages"), ids=names(records("messages")))
def test_anthropic_messages(tmp_path: Path, record: Record) -> None:
    with both(tmp_path, record) as (urls, program):
        got = []
        for url in urls:
            with anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="any", max_retries=0) as client:
                create: Any = client.messages.create
                messages = [{"role": "user", "content": "played"}]
                headers = {"x-record": record.id}
                got.append(
                    objects(
                        functools.partial(
                            create,
                            model="m",
                            max_tokens=9,
                            messages=messages,
                            stream=record.stream,
                            extra_headers=headers,
                        )
                    )
                )
        assert got[0] == got[1] and got[0]
        program.exchanges(1)


# As users have it: the tests' own is 0, to be fast.
SETTLE = {"LLMPROXY_CAPTURE__SETTLE": str(CaptureConfig().settle)}


def test_llm_writes_its_own_record_beside_ours(tmp_path: Path) -> None:
    """`llm` reads, then writes, in one transaction, right after the last byte: the ingester is not to come between."""
    with serving(tmp_path, "--upstream", "mock", environment=SETTLE) as program:
        model = Chat("captured", model_name="captured", api_base=f"{program.url}/v1")
        for count in range(1, 9):
            response = model.prompt("Are you there?", stream=False, key="any")
            response.text()
            response.log_to_db(database := sqlite_utils.Database(program.database))
            database.close()
            program.exchanges(count)
        assert len(program.logs()) == 16


def test_llm_continues_a_captured_conversation(tmp_path: Path) -> None:
    """`llm -c` goes on with a conversation that an OpenAI client began, history and all."""
    with serving(tmp_path, "--upstream", "mock", environment=SETTLE) as program:
        with openai.OpenAI(base_url=f"{program.url}/v1", api_key="any") as client:
            first = client.chat.completions.create(
                model="captured", messages=[{"role": "user", "content": "Remember the number seven."}]
            )
        program.exchanges(1)
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: captured\n  model_name: captured\n  api_base: {program.url}/v1\n  api_key_name: none\n"
        )
        program.llm("keys", "set", "none", "--value", "any")
        program.llm("-c", "And now?")
        program.exchanges(2)
        bodies = eventually(
            lambda: program.query("select turn_id from llmproxy_exchanges where turn_id is not null"), "the turns"
        )
        assert len(bodies) == 2
        logs = program.logs()
    asked = [log["prompt"] for log in logs]
    assert asked.count("Remember the number seven.") == 1 and asked.count("And now?") == 2  # llm's own log, and ours
    assert len({log["conversation_id"] for log in logs}) == 1
    assert json.dumps(logs).count(str(first.choices[0].message.content)) >= 1


def messages_stream(*blocks: dict[str, Any], stop: str) -> bytes:
    """What Anthropic's Messages API streams, each block whole at its start."""
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": []}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message | {"usage": {"input_tokens": 9}}}]
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 7}})
    events.append({"type": "message_stop"})
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return answer(body.encode(), headers=b"content-type: text/event-stream\r\n")


def test_claude_code(tmp_path: Path) -> None:
    """What Claude Code 2.1.197 sends, its long texts cut: context of its own beside the user's words, a system message
    after them, `cache_control` that moves. It is one conversation, named by the user's words."""
    thought = {"type": "thinking", "thinking": "Let me run it.", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "pwd"}}
    left = [
        messages_stream(thought, call, stop="tool_use"),
        messages_stream({"type": "text", "text": "Home."}, stop="x"),
    ]

    def give(connection: Connection, request: RawRequest) -> None:
        connection.send(left.pop(0) if len(left) > 1 else left[0])

    context = {"type": "text", "text": "<system-reminder>\nAs you answer …\n</system-reminder>\n\n"}
    question = {"type": "text", "text": "Say where you are"}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "/home", "is_error": False}
    now = {"cache_control": {"type": "ephemeral"}}
    agents = {"role": "system", "content": "Available agent types for the Agent tool:\n- claude: …"}
    asked: list[dict[str, Any]] = [{"role": "user", "content": [context, question]}, agents]
    answered = [*asked, {"role": "assistant", "content": [thought, call]}, {"role": "user", "content": [result]}]
    requests: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": [context, question | now]}, agents],
        [*answered[:-1], {"role": "user", "content": [result | now]}],
        [
            *answered,
            {"role": "assistant", "content": [{"type": "text", "text": "Home."}]},
            {"role": "user", "content": [{"type": "text", "text": "And now?"} | now]},
        ],
    ]
    headers = {
        "user-agent": "claude-cli/2.1.197 (external, sdk-cli)",
        "x-api-key": "any",
        "x-app": "cli",
        "x-claude-code-session-id": "733f1a03-5333-4998-b759-97c769210d28",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,mid-conversation-system-2026-04-07",
    }
    rest = {"model": "claude-opus-4-8", "max_tokens": 64000, "stream": True, "thinking": {"type": "adaptive"}}
    tool = {"name": "Bash", "description": "…", "input_schema": {"type": "object", "properties": {}}}
    with raw_upstream(give) as up:
        upstream = {"anthropic": {"base_url": f"{up.url}/v1"}}
        with serving(tmp_path, environment={"LLMPROXY_UPSTREAMS": json.dumps(upstream)}) as program:
            for messages in requests:
                body = {
                    "messages": messages,
                    "system": [{"type": "text", "text": "Be brief."}],
                    "tools": [tool],
                    **rest,
                }
                url = f"{program.url}/anthropic/v1/messages?beta=true"
                assert httpx2.post(url, json=body, headers=headers).status_code == 200
            seen = program.exchanges(3, "api, outcome, session, thread_id")
            names = program.query("select name from threads")
    session = "733f1a03-5333-4998-b759-97c769210d28"
    assert {row[:3] for row in seen} == {("messages", "complete", session)}
    assert len({row[3] for row in seen}) == 1 and names == [("Say where you are",)]
    assert up.requests[0].request_line == b"POST /v1/messages?beta=true HTTP/1.1"
