"""The program as users run it, in front of the mock: what passes lands in `llm logs`."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from llmproxy.check import check
from llmproxy.config import Config
from tests.crash.run import run as crash_run
from tests.proxy import Program, children, eventually, serving
from tests.raw_upstream import Connection, RawRequest, raw_upstream

MOCK = ("--upstream", "mock")
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def client(program: Program) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{program.url}/v1", api_key="sk-secret-of-the-client", max_retries=0)


def test_a_conversation_lands_in_llm_logs_as_one_thread(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        messages: list[Any] = [{"role": "system", "content": "Be brief."}]
        answers = []
        with client(program) as openai_client:
            for number in range(3):
                messages.append({"role": "user", "content": f"Question number {number}?"})
                stream = openai_client.chat.completions.create(
                    model="mock",
                    messages=messages,
                    stream=True,
                    stream_options={"include_usage": True},
                    temperature=0.5,
                )
                answer = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
                answers.append(answer)
                messages.append({"role": "assistant", "content": answer})
        logs = program.turns(3)
        assert [(log["prompt"], log["response"], log["system"]) for log in logs] == [
            (f"Question number {number}?", answers[number], "Be brief.") for number in range(3)
        ]
        assert len({log["conversation_id"] for log in logs}) == 1
        assert all(log["model"] == "mock" and log["options_json"]["temperature"] == 0.5 for log in logs)
        assert all(log["input_tokens"] and log["output_tokens"] for log in logs)
        assert "Question number 1?" in program.llm("logs", "-q", "number", "-n", "0")
        shown = program.llm("logs", "-c")
        assert all(answer in shown for answer in answers)
        rows = program.exchanges(3, "turn_id, thread_id, upstream, api, stream, status, outcome, finish_reason")
        assert [row[2:] for row in rows] == [("mock", "chat.completions", 1, 200, "complete", "stop")] * 3
        assert [row[0] for row in rows] == [log["id"] for log in logs]
        assert_verified(program)
        assert_nowhere(program, b"sk-secret-of-the-client")
        assert program.stop() == 0
        assert not list((tmp_path / "llmproxy" / "spool").glob("*.spool")), "the spool is drained at the end"


def assert_verified(program: Program) -> None:
    import sqlite_utils
    from llm.logs import LogStore

    with closing(sqlite_utils.Database(program.database)) as db:
        assert LogStore(db).verify() == []


def assert_nowhere(program: Program, secret: bytes) -> None:
    for path in program.home.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), f"the key is in {path}"


def test_tools_choices_and_images(tmp_path: Path) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    with serving(tmp_path, *MOCK) as program, client(program) as openai_client:
        create: Any = openai_client.chat.completions.create
        question = {"role": "user", "content": "What is the weather?"}
        called = create(model="mock", messages=[question], tools=[tool], tool_choice="required").choices[0].message
        (call,) = called.tool_calls
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        create(model="mock", messages=[question, called.model_dump(exclude_none=True), result], tools=[tool])
        two = create(model="mock", messages=[{"role": "user", "content": "Two, please"}], n=2)
        image = {"type": "image_url", "image_url": {"url": IMAGE}}
        create(model="mock", messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}])
        program.exchanges(4)
        logs = program.logs()
        assert len(two.choices) == 2 and len(logs) == 5
        first, second = logs[:2]
        assert first["tool_calls"][0]["name"] == "get_weather"
        assert first["tool_calls"][0]["tool_call_id"] == call.id
        assert first["tools"][0]["description"] == "The weather"
        assert second["tool_results"][0]["output"] == "sunny"
        assert second["tool_results"][0]["name"] == "get_weather"
        assert first["conversation_id"] == second["conversation_id"]
        assert sorted(log["response"] for log in logs if log["prompt"] == "Two, please") == sorted(
            choice.message.content for choice in two.choices
        )
        # The provider reports usage for both at once: sums over turns are what was paid for.
        (thread,) = {log["conversation_id"] for log in logs if log["prompt"] == "Two, please"}
        total = program.query("select sum(output_tokens), count(response_json) from turns where thread_id = ?", thread)
        assert total == [(two.usage.completion_tokens, 1)]
        (pictured,) = [log for log in logs if log["attachments"]]
        assert pictured["attachments"][0]["type"] == "image/png"
        assert_verified(program)


def test_a_captured_turn_looks_like_one_of_llms_own(tmp_path: Path) -> None:
    """`llm` itself asks the mock, once directly and once through the proxy: both log alike."""
    with serving(tmp_path, *MOCK) as program:
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- model_id: through-the-proxy\n  model_name: mock\n  api_base: {program.url}/v1\n  api_key_name: none\n"
        )
        program.llm("keys", "set", "none", "--value", "any")
        said = program.llm("-m", "through-the-proxy", "Hello there", "-s", "Be kind.").strip()
        program.exchanges(1)
        logs = program.logs()
    assert len(logs) == 2
    by_llm, captured = sorted(logs, key=lambda log: log["model"] == "mock")
    assert by_llm["response"].strip() == captured["response"].strip() == said
    for key in ("prompt", "system", "input_tokens", "output_tokens", "schema_json", "attachments", "tools"):
        assert by_llm.get(key) == captured.get(key), key
    assert by_llm.keys() == captured.keys()


def test_a_stream_broken_off_by_the_client_is_kept_and_marked(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program, client(program) as openai_client:
        stream = openai_client.chat.completions.create(
            model="mock",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_body={"mock": {"answer": "one two three four five six", "chunk_delay": 0.2}},
        )
        got = ""
        for chunk in stream:
            got += chunk.choices[0].delta.content or ""
            if "two" in got:
                break
        stream.close()
        ((outcome, turn_id),) = program.exchanges(1, "outcome, turn_id")
        (log,) = program.logs()
    assert outcome == "client_gone" and turn_id == log["id"]
    assert log["response"].startswith("one two") and "six" not in log["response"]


@pytest.mark.parametrize(
    "body", [b"not json", b'{"messages": "\xff"}', b"[" * 10_000, b"", b"null", b'{"messages": 1}']
)
def test_bodies_that_make_no_sense_are_forwarded_and_kept_raw(tmp_path: Path, body: bytes) -> None:
    with serving(tmp_path, *MOCK) as program:
        response = httpx2.post(f"{program.url}/v1/chat/completions", content=body)
        assert response.status_code == 400
        ((turn_id, status, raw, answer, outcome),) = program.exchanges(
            1, "turn_id, status, request_body, response_body, outcome"
        )
        assert (turn_id, status, raw, answer) == (None, 400, body, response.content)
        assert outcome == "complete"
        # The neighbour is well.
        assert httpx2.get(f"{program.url}/v1/models").status_code == 200


def test_errors_are_rows_without_turns(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        request = {"messages": [{"role": "user", "content": "x"}], "mock": {"status": 429}}
        assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 429
        ((turn_id, status, error),) = program.exchanges(1, "turn_id, status, error")
        assert (turn_id, status) == (None, 429) and error
        assert program.logs() == []


def test_kill_9_of_the_server_loses_nothing_that_a_client_has(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        for number in range(5):
            request = {"messages": [{"role": "user", "content": f"answered {number}"}]}
            assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200
        slow = {"messages": [{"role": "user", "content": "in flight"}], "stream": True, "mock": {"chunk_delay": 60}}
        with httpx2.stream("POST", f"{program.url}/v1/chat/completions", json=slow) as response:
            pieces = response.iter_raw()
            next(pieces)
            # What passed is on disk a moment later.
            eventually(lambda: b"@response_body " in last_segment(program), "the first piece in the spool")
            program.process.kill()
            program.process.wait()
    # The ingester outlives the server, drains and ends; nobody restarts anything.
    rows = program.exchanges(6, "outcome, status")
    assert rows == [("complete", 200)] * 5 + [("interrupted", 200)]
    assert len({row[0] for row in program.query("select id from llmproxy_exchanges")}) == 6


def last_segment(program: Program) -> bytes:
    segments = sorted((program.home / "llmproxy" / "spool").glob("*.spool"))
    return segments[-1].read_bytes().rpartition(b"@request ")[2]


def test_kill_9_of_the_ingester_is_mended(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        for number in range(30):
            request = {"messages": [{"role": "user", "content": f"message {number}"}]}
            assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200
            if number % 10 == 5:
                for pid in children(program.process.pid):
                    os.kill(pid, signal.SIGKILL)
        program.exchanges(30)
        ids = [row[0] for row in program.query("select id from llmproxy_exchanges")]
        assert len(ids) == len(set(ids)) == 30
        assert program.query("select count(*) from turns") == [(30,)]
        assert_verified(program)


def test_processes_killed_at_random_moments(tmp_path: Path) -> None:
    counts = crash_run(tmp_path, seconds=3, seed=20261121)
    assert counts["complete at the client, each complete in the database"] > 20
    assert sum(count for name, count in counts.items() if name.startswith("killed")) >= 2


def test_forwarding_goes_on_while_the_database_is_locked(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        request = {"messages": [{"role": "user", "content": "first"}]}
        httpx2.post(f"{program.url}/v1/chat/completions", json=request)
        program.exchanges(1)
        lock = sqlite3.connect(program.database, isolation_level=None)
        lock.execute("begin immediate")
        for number in range(20):
            request = {"messages": [{"role": "user", "content": f"while locked {number}"}]}
            assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200
        eventually(lambda: "cannot be written" in "".join(program.output), "the warning")
        assert len(program.query("select id from llmproxy_exchanges")) == 1
        lock.execute("rollback")
        lock.close()
        program.exchanges(21)


def test_a_database_that_is_replaced_by_rubbish_and_comes_back(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:

        def ask(text: str) -> None:
            request = {"messages": [{"role": "user", "content": text}]}
            assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200

        ask("first")
        program.exchanges(1)
        for name in ("logs.db", "logs.db-wal", "logs.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        program.database.write_bytes(b"this is no database, " * 100)
        ask("second")
        eventually(lambda: "cannot be written" in "".join(program.output), "the warning")
        program.database.unlink()
        assert len(program.exchanges(1, "id")) == 1
        assert [log["prompt"] for log in program.logs()] == ["second"]


def test_two_servers_and_a_drain_share_one_spool(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as one, serving(tmp_path, *MOCK) as two:
        slow = {
            "messages": [{"role": "user", "content": "slow"}],
            "stream": True,
            "mock": {"answer": "a b c", "chunk_delay": 0.5},
        }
        with httpx2.stream("POST", f"{two.url}/v1/chat/completions", json=slow, timeout=60) as response:
            for program in (one, two):
                request = {"messages": [{"role": "user", "content": "quick"}]}
                assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200
            assert one.stop() == 0
            response.read()
        outcomes = [row[0] for row in two.exchanges(3, "outcome")]
    assert outcomes == ["complete"] * 3


def test_ingest_drain_by_itself(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        httpx2.get(f"{program.url}/")  # it has started, and so has its ingester
        for pid in children(program.process.pid):
            os.kill(pid, signal.SIGSTOP)
        try:
            request = {"messages": [{"role": "user", "content": "left behind"}]}
            httpx2.post(f"{program.url}/v1/chat/completions", json=request)
        finally:
            stopped = children(program.process.pid)
            program.process.kill()
            program.process.wait()
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
    drain = Program(tmp_path, "ingest", "--drain")
    assert drain.wait() == 0, drain.output
    assert [log["prompt"] for log in drain.logs()] == ["left behind"]


def test_workers_serve_and_are_replaced(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK, "--workers", "2") as program:

        def ask(text: str) -> int:
            request = {"messages": [{"role": "user", "content": text}]}
            try:
                return httpx2.post(f"{program.url}/v1/chat/completions", json=request, timeout=60).status_code
            except httpx2.TransportError:
                return 0

        eventually(lambda: ask("first") == 200, "the first answer")
        for pid in children(program.process.pid):
            if b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                break
        answered = sum(ask(f"after {number}") == 200 for number in range(20))
        assert answered >= 1
        program.exchanges(1 + answered)
        assert program.stop() == 0, program.output


def test_streams_in_flight_have_a_grace_at_the_end(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        request = {
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
            "mock": {"answer": "one two three four", "chunk_delay": 0.2},
        }
        with httpx2.stream("POST", f"{program.url}/v1/chat/completions", json=request, timeout=60) as response:
            pieces = response.iter_raw()
            got = next(pieces)
            program.process.send_signal(signal.SIGTERM)
            got += b"".join(pieces)
        assert b"[DONE]" in got
        assert program.wait() == 0
        assert program.exchanges(1, "outcome") == [("complete",)]


def test_after_the_grace_streams_are_cut_and_recorded(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK, environment={"LLMPROXY_SHUTDOWN_GRACE": "0.3"}) as program:
        request = {"messages": [{"role": "user", "content": "x"}], "stream": True, "mock": {"chunk_delay": 60}}
        with httpx2.stream("POST", f"{program.url}/v1/chat/completions", json=request, timeout=60) as response:
            pieces = response.iter_raw()
            next(pieces)
            program.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx2.RemoteProtocolError):
                b"".join(pieces)
        assert program.wait() == 0, program.output
        assert program.exchanges(1, "outcome") == [("interrupted",)]


@pytest.mark.parametrize("direct", [False, True])
def test_a_second_signal_ends_at_once(tmp_path: Path, direct: bool) -> None:
    def begin(connection: Connection, request: RawRequest) -> bool | None:
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        return connection.wait_closed(60)

    with (
        raw_upstream(begin) as up,
        serving(
            tmp_path,
            *(("--upstream", f"{up.url}/v1") if direct else MOCK),
            environment={"LLMPROXY_SHUTDOWN_GRACE": "600"},
        ) as program,
    ):
        request = {"messages": [{"role": "user", "content": "x"}], "stream": True, "mock": {"chunk_delay": 60}}
        with httpx2.stream("POST", f"{program.url}/v1/chat/completions", json=request, timeout=60) as response:
            pieces = response.iter_raw()
            next(pieces)
            program.process.send_signal(signal.SIGINT)
            # The first signal was taken when the door is closed.
            eventually(lambda: not accepts(program.port), "the closed door")
            program.process.send_signal(signal.SIGINT)
            assert program.wait(10) == 0
    # The ingester, which has a session of its own, may be at it still.
    drain = Program(tmp_path, "ingest", "--drain")
    assert drain.wait() == 0
    assert drain.exchanges(1, "outcome, duration_ms > 0") == [("interrupted", 1)], "it was told, and said so"


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_llm_logs_off_is_respected_and_told(tmp_path: Path) -> None:
    (tmp_path / "logs-off").touch()
    with serving(tmp_path, *MOCK) as program:
        assert "llm logs off" in "".join(program.output)
        request = {"messages": [{"role": "user", "content": "unseen"}]}
        assert httpx2.post(f"{program.url}/v1/chat/completions", json=request).status_code == 200
        assert program.stop() == 0
    assert not program.database.exists()
    with serving(tmp_path, *MOCK, environment={"LLMPROXY_CAPTURE__ENABLED": "true"}) as program:
        httpx2.post(f"{program.url}/v1/chat/completions", json=request)
        program.exchanges(1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--port", "99999"), 2, "port"),
        (("--config", "missing.yaml"), 2, "missing.yaml"),
        (("--host", "0.0.0.0"), 2, "security.clients"),
        (("--upstream", "nope"), 2, "there is no 'nope'"),
        (("--database", "/dev/null/x.db"), 2, "capture.database"),
    ],
)
def test_wrong_usage_is_told_in_a_line(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    program = Program(tmp_path, "serve", *arguments)
    assert program.wait() == code
    output = "".join(program.output)
    assert message in output and "Traceback" not in output and len(program.output) <= 3, output


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        program = Program(tmp_path, "serve", *MOCK, "--port", str(sock.getsockname()[1]))
        assert program.wait() == 1
    assert "--port" in "".join(program.output)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are my notes, not a database.")
    program = Program(tmp_path, "serve", *MOCK, "--database", str(tmp_path / "notes.txt"))
    assert program.wait() == 2
    assert "is not a SQLite database" in "".join(program.output)


def test_the_demo(tmp_path: Path) -> None:
    demo = Program(tmp_path, "demo", "--once")
    assert demo.wait() == 0, demo.output
    output = "".join(demo.output)
    assert output.count("passes every byte through unchanged") == 2, "as it arrived, and as recorded"


def test_check(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "upstreams:\n  mock: {app: 'llmproxy.inprocess.mock:create_app'}\n  down: {base_url: 'http://127.0.0.1:9/v1'}\n"
    )
    program = Program(tmp_path, "check", "--config", str(tmp_path / "config.yaml"))
    assert program.wait() == 1
    output = "".join(program.output)
    assert "ok   upstreams.mock" in output and "BAD  upstreams.down" in output


def test_check_tells_a_mistake_once_and_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are my notes, not a database.")
    program = Program(tmp_path, "check", "--database", str(tmp_path / "notes.txt"))
    assert program.wait() == 1
    output = "".join(program.output)
    assert output.count("is not a SQLite database") == 1 and "BAD  capture: " in output and "ok   host: " in output


def test_check_tells_of_a_database_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "logs.db"
    database.touch(mode=0o400)
    upstreams = {"mock": {"app": "llmproxy.inprocess.mock:create_app"}}
    config = Config.model_validate({"upstreams": upstreams, "capture": {"database": str(database), "enabled": True}})
    monkeypatch.setattr(os, "access", lambda path, mode: path != database)  # root may write it all the same
    (finding,) = [each for each in check(config) if each.place == "capture"]
    assert not finding.good and "is read-only; make it writable" in finding.text


def test_an_upstream_without_a_scheme_is_told(tmp_path: Path) -> None:
    program = Program(tmp_path, "serve", "--upstream", "localhost:8000/v1")
    assert program.wait() == 2
    assert "--upstream localhost:8000/v1: a base URL begins with http:// or https://" in "".join(program.output)


def test_stats(tmp_path: Path) -> None:
    with serving(tmp_path, *MOCK) as program:
        httpx2.post(f"{program.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}]})
        httpx2.post(f"{program.url}/v1/chat/completions", content=b"rubbish")
        program.exchanges(2)
        stats = Program(tmp_path, "stats", "--json")
        assert stats.wait() == 0
        counted = json.loads("".join(stats.output))
    assert (counted["exchanges"], counted["turns"]) == (2, 1)
    assert counted["outcomes"] == {"complete": 2}
    assert list(counted["not_reconstructed"].values()) == [1]


def test_memory_does_not_grow_with_a_response(tmp_path: Path) -> None:
    size = 100 * 1024 * 1024
    piece = b"x" * 65536

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            sock.sendall(piece)
        sock.close()

    def resident() -> int:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with serving(tmp_path, "--upstream", f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as program:
            httpx2.get(f"{program.url}/")
            before = resident()
            received = 0
            with httpx2.stream("GET", f"{program.url}/v1/files/x/content", timeout=60) as response:
                for part in response.iter_raw():
                    received += len(part)
            assert received == size
            assert resident() - before < 20, "MiB"
            program.exchanges(1)
        thread.join()


def test_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "llmproxy", "--help"], capture_output=True, text=True, check=True)
    assert "llmproxy serve" in done.stdout


def test_two_instances_with_spools_of_their_own_share_a_database(tmp_path: Path) -> None:
    spools = [{"LLMPROXY_CAPTURE__SPOOL": str(tmp_path / name)} for name in ("one", "two")]
    with (
        serving(tmp_path, *MOCK, environment=spools[0]) as one,
        serving(tmp_path, *MOCK, environment=spools[1]) as two,
    ):
        urls = [f"{program.url}/v1/chat/completions" for program in (one, two)]
        messages = [{"role": "user", "content": "first"}]
        for turn in range(4):
            # One conversation that goes through both, and others beside it.
            said = httpx2.post(urls[turn % 2], json={"messages": messages}).json()["choices"][0]["message"]
            messages += [said, {"role": "user", "content": f"and {turn}"}]
            for url in urls:
                httpx2.post(url, json={"messages": [{"role": "user", "content": f"beside {turn} {url}"}]})
            one.exchanges(3 * (turn + 1))
        assert one.query("select count(*), count(distinct id) from llmproxy_exchanges") == [(12, 12)]
        assert one.query("select count(*), count(distinct thread_id) from turns") == [(12, 9)]
        assert (one.stop(), two.stop()) == (0, 0)
        assert_verified(one)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_to_all_processes_at_once_keeps_the_grace(tmp_path: Path, signals: int) -> None:
    """systemd sends SIGTERM to every process of a service: to workers and to the ingester too."""
    grace = {"LLMPROXY_SHUTDOWN_GRACE": "600"}
    with serving(tmp_path, *MOCK, "--workers", "2", environment=grace) as program:
        delay = 0.2 if signals == 1 else 60
        request = {
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
            "mock": {"answer": "one two three four", "chunk_delay": delay},
        }
        with httpx2.stream("POST", f"{program.url}/v1/chat/completions", json=request, timeout=60) as response:
            pieces = response.iter_raw()
            got = next(pieces)
            for pid in [program.process.pid, *children(program.process.pid)]:
                os.kill(pid, signal.SIGTERM)
            if signals == 1:
                assert b"[DONE]" in got + b"".join(pieces)
            else:
                eventually(lambda: not accepts(program.port), "the closed door")
                program.process.send_signal(signal.SIGTERM)
                with pytest.raises(httpx2.TransportError):
                    b"".join(pieces)
        assert program.wait() == 0, program.output
    drain = Program(tmp_path, "ingest", "--drain")
    assert drain.wait() == 0
    assert drain.exchanges(1, "outcome") == [("complete",) if signals == 1 else ("interrupted",)]
