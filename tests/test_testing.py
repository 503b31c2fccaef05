"""The pytest plugin and `replaying`, as other projects use them."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from llmproxy.inprocess.mock import create_app
from llmproxy.testing import NoCassette, replaying
from tests.proxy import app_in_thread

EXAMPLE = Path(__file__).parent / "replayed" / "test_weather.py"
QUESTION = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}


def run_pytest(folder: Path, *arguments: str, base_url: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTEST_"))}
    environment |= {"OPENAI_BASE_URL": base_url} if base_url else {}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_suite_passes_again_when_the_provider_is_gone(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nllmproxy_cassette = answers/{module}.db\n")
    with app_in_thread(create_app()) as port:
        recorded = run_pytest(tmp_path, "--llmproxy-record", base_url=f"http://127.0.0.1:{port}/v1")
    assert "5 passed" in recorded.stdout, recorded.stdout + recorded.stderr
    cassette = tmp_path / "answers" / "test_weather.db"
    kept = cassette.read_bytes()
    again = run_pytest(tmp_path, base_url=f"http://127.0.0.1:{port}/v1")  # nobody listens there now
    assert "5 passed" in again.stdout, again.stdout + again.stderr
    assert [path.name for path in (tmp_path / "answers").iterdir()] == ["test_weather.db"]
    assert cassette.read_bytes() == kept


def test_a_test_without_a_cassette_is_told_how_to_record_one(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("def test_it(llmproxy_replay):\n    pass\n")
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "there is no cassette; record it with: pytest --llmproxy-record" in done.stdout


@pytest.mark.llmproxy(cassette="replayed/cassettes/test_weather.db")
def test_the_marker_names_the_cassette_and_the_environment_is_set(
    llmproxy_replay: object, request: pytest.FixtureRequest
) -> None:
    assert os.environ["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
    assert os.environ["OPENAI_API_KEY"] == os.environ["ANTHROPIC_API_KEY"] == "llmproxy-replay"
    models = httpx2.get(os.environ["OPENAI_BASE_URL"] + "/models", trust_env=False)
    assert models.json()["data"][0]["id"] == "mock"
    missing = httpx2.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json={"messages": []}, trust_env=False)
    assert missing.json()["error"]["code"] == "replay_unknown_request"


def test_without_pytest_and_inside_an_event_loop(tmp_path: Path) -> None:
    cassette = tmp_path / "deep" / "answers.db"

    async def ask(url: str) -> dict[str, object]:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return dict((await client.post(f"{url}/v1/chat/completions", json=QUESTION)).json())

    async def record(base_url: str) -> dict[str, object]:
        with replaying(cassette, record=True, upstreams={"mine": base_url}) as replay:
            return await ask(replay.url)

    with app_in_thread(create_app()) as port:
        first = asyncio.run(record(f"http://127.0.0.1:{port}/v1"))
    with replaying(cassette, upstreams={"mine": "http://127.0.0.1:1"}) as replay:
        assert asyncio.run(ask(replay.url)) == first
    connection = sqlite3.connect(cassette)
    assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
    ((headers,),) = connection.execute("select request_headers from llmproxy_exchanges").fetchall()
    connection.close()
    assert "authorization" not in dict(json.loads(headers))
    with pytest.raises(NoCassette, match="there is no cassette"):
        with replaying(tmp_path / "none.db"):
            pass


def test_the_plugin_costs_those_who_do_not_use_it_next_to_nothing() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import llmproxy.testing.plugin\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('llmproxy')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
