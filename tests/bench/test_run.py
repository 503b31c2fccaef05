"""`llmproxy bench` over a real database and the mock: what is called, what is kept, and nothing is called twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from llm import Tool

from llmproxy.bench.targets import AS_RECORDED
from llmproxy.reconstruct.turn import Usage
from tests.bench.bench import Bench, bench
from tests.proxy import eventually
from tests.store.conversations import Recordings, assistant, call, system, user

__all__ = ["bench"]


def conversation(recordings: Recordings) -> tuple[str, str, str]:
    """A thread of two turns, and one that calls a tool."""
    first = [system("Be brief."), user("Say hello")]
    weather = Tool(name="weather", description=None, input_schema={"type": "object", "properties": {}})
    return (
        recordings.exchange(first, assistant("Hello."), options={"temperature": 0.5}, usage=Usage(10, 5)),
        recordings.exchange([*first, assistant("Hello."), user("Again, and longer")], assistant("Hello, hello!")),
        recordings.exchange([user("Use weather")], assistant("", call("call_1", "weather")), tools=(weather,)),
    )


def test_every_prompt_goes_to_every_target_and_each_answer_is_a_turn(bench: Bench) -> None:
    first, second, third = bench.record(conversation)
    bench("--target", "up/echo", "--target", "up/flaky,temperature=0", "--as-recorded", "--judge", "up/judge")
    run = bench.run()
    assert run.ended_utc is not None
    assert [target.name for target in run.targets] == [AS_RECORDED, "up/echo", "up/flaky,temperature=0"]
    assert [prompt.turn_id for prompt in run.prompts] == [first, second, third]
    results = {(result.prompt, result.target): result for result in run.results}
    assert len(results) == 9 and {result.status for result in run.results} == {"done"}

    echo = results[first, "up/echo"]
    assert echo.text == "You said: Say hello"
    assert echo.http_status == 200 and echo.attempts == 1 and echo.finish_reason == "stop"
    assert echo.first_byte_ms is not None and echo.first_token_ms is not None and echo.duration_ms is not None
    assert echo.input_tokens and echo.output_tokens and echo.cost_usd is None
    assert results[first, "up/flaky,temperature=0"].attempts == 2
    assert results[first, AS_RECORDED].text == "Hello."
    assert results[first, AS_RECORDED].cost_usd == pytest.approx((10 + 2 * 5) / 1e6)

    # Options are as recorded, and the target's over them; the tools come along, and the upstream sees no field of ours.
    sent = [call["body"] for call in bench.calls() if call["model"] == "echo"]
    assert {body.get("temperature") for body in sent} == {0.5, None}
    assert {body["temperature"] for body in (c["body"] for c in bench.calls() if c["model"] == "flaky")} == {0}
    assert any(body.get("tools") for body in sent)
    assert not [name for each in bench.calls() for name in each["headers"] if name.startswith("x-llmproxy")]

    # The tool is called as recorded, and the checks follow from what was recorded.
    tools = results[third, "up/echo"]
    assert tools.tool_calls == (("weather", "{}"),)
    assert [(check.name, check.passed) for check in tools.checks] == [("tools", True)]
    assert [check.name for check in echo.checks] == ["similarity"]

    # Each answer is a turn: on the same parent message, in a thread that is forked from the prompt's.
    assert echo.turn_id is not None
    parents = bench.query("select id, parent_message_hash from turns")
    assert dict(parents)[echo.turn_id] == dict(parents)[first]
    ((forked_from, client),) = bench.query(
        "select threads.forked_from, client from turns join threads on threads.id = turns.thread_id"
        " join llmproxy_exchanges on turn_id = turns.id where turns.id = ?",
        echo.turn_id,
    )
    assert (forked_from, client) == (first, f"bench:{run.id}")
    assert bench.query("select thread_id from turns where id = ?", second) == [(first,)]

    # Pairwise, in both orders: the longer answer is better for this judge, whichever comes first.
    (verdict,) = echo.verdicts
    assert (verdict.judge, verdict.kind, verdict.score) == ("up/judge", "pairwise", 1.0)
    assert len(verdict.turn_ids) == 2
    assert bench.query("select count(*) from turns where id in (?, ?)", *verdict.turn_ids) == [(2,)]
    assert results[first, AS_RECORDED].verdicts == ()


def test_what_does_not_work_is_told_and_kept(bench: Bench) -> None:
    def fill(recordings: Recordings) -> list[str]:
        conversation(recordings)
        recordings.exchange([user("from the middle")], assistant("x"), api="completions")
        return []

    bench.record(fill)
    out = bench("--target", "up/echo", "--target", "up/dear,name=dear", "--dry-run", "--model", "m")
    assert "up/echo: 4 calls for 4 prompts" in out and "unknown price" in out and "dear: 4 calls" in out
    assert bench("list") == "no runs yet; make one with: llmproxy bench --target UPSTREAM/MODEL\n"
    assert bench.calls() == []

    bench(
        "--target", "up/broken", "--query", "hello", "--target", "claude/x,api=messages", "--checks", "nowhere", code=2
    )
    bench("--target", "up/broken", "--target", "up/echo,api=messages", "--limit", "2", "--no-warm-up")
    run = bench.run()
    broken = [result for result in run.results if result.target == "up/broken"]
    assert {(result.status, result.http_status, result.attempts) for result in broken} == {("failed", 400, 1)}
    assert {result.error for result in broken} == {"no such luck"}
    skipped = [result for result in run.results if result.status == "skipped"]
    assert [result.error for result in skipped] == ["completions cannot be translated to messages"]

    (translated,) = [result for result in run.results if result.status == "done"]
    assert (translated.target, translated.tool_calls) == ("up/echo,api=messages", (("weather", "{}"),))

    # A limit is kept: a call of this target costs dollars by the token.
    out = bench("--target", "up/dear", "--max-cost", "0.5", code=1)
    assert "stopped before more than $0.5 were spent" in out
    assert not [each for each in bench.calls() if each["model"] == "dear"]

    listed = bench("list")
    assert "up/dear" in listed and "1 done, 2 failed, 1 skipped" in listed and "(not ended)" in listed
    bench("rm", "--yes", run.id)
    assert bench.query("select count(*) from llmproxy_bench_results where run_id = ?", run.id) == [(0,)]
    assert "no run begins with" in bench("show", run.id, code=1)


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    bench = Bench(tmp_path, delay=0.05)
    prompts = 16
    bench.record(lambda r: [r.exchange([user(f"number {at}")], assistant("?")) for at in range(prompts)])
    process = subprocess.Popen(
        [sys.executable, "-m", "llmproxy", *bench.arguments("-t", "up/a", "-t", "up/b", "-j", "2", "--no-warm-up")],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: len(bench.calls()) >= 10, "ten calls")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(bench.calls())
    assert before < 2 * prompts, "it was killed too late to show anything"

    bench("--resume", "last", "-j", "8")
    run = bench.run()
    assert run.ended_utc is not None and len(run.results) == 2 * prompts
    assert {result.status for result in run.results} == {"done"}
    assert all(result.turn_id and result.checks for result in run.results)
    # At most the two that were in flight were asked again, and nothing that had ended well.
    assert 2 * prompts <= len(bench.calls()) <= 2 * prompts + 2
    marks = [
        dict(json.loads(headers))["x-llmproxy-bench"]
        for (headers,) in bench.query(
            "select request_headers from llmproxy_exchanges where outcome = 'complete' and turn_id is not null"
            " and client like 'bench:%'"
        )
    ]
    assert len(marks) == len(set(marks)) == 2 * prompts

    bench("--resume", "last")
    assert 2 * prompts <= len(bench.calls()) <= 2 * prompts + 2


def test_a_run_is_made_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    bench = Bench(tmp_path, delay=60)
    bench.record(lambda r: r.exchange([user("hello")], assistant("?")))
    process = subprocess.Popen(
        [sys.executable, "-m", "llmproxy", *bench.arguments("-t", "up/a", "--no-warm-up")], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: bench.calls(), "a call")
        refused = bench("--resume", "last", "--retry-failed", code=1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = bench.run()
    assert f"another llmproxy bench (process {process.pid}) is at run {run.id}" in refused
    assert f"llmproxy bench --resume {run.id}" in refused
    assert len(bench.calls()) == 1 and run.results == ()

    # The lock of a process that was killed is nobody's, and an ended run leaves none behind.
    bench = Bench(tmp_path)
    bench("--resume", "last")
    assert [result.status for result in bench.run().results] == ["done"]
    assert list((tmp_path / "llmproxy").glob("*.lock")) == []
