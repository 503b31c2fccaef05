"""The providers' own packages give their users the same objects through the proxy as without it."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.corpus import Player, Record, fixture_records
from tests.proxy import Program, eventually, serving
from tests.raw_upstream import raw_upstream

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


def test_llm_continues_a_captured_conversation(tmp_path: Path) -> None:
    """`llm -c` goes on with a conversation that an OpenAI client began, history and all."""
    with serving(tmp_path, "--upstream", "mock") as program:
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
