"""`llmproxy demo`: the main job, shown: a streamed chat through a real socket, and the conversation as recorded."""

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import click
import httpx2

from llmproxy.config import Config
from llmproxy.preflight import check_startable
from llmproxy.serve import listen, serve

QUESTION = "What does llmproxy do?"
ANSWER = (
    "It stands between your program and the provider, passes every byte through unchanged,"
    " and writes the conversation into the logs database of llm."
)
DEADLINE_SECONDS = 20.0


class DemoError(Exception):
    """The demonstration did not show what it should; one line for the user."""


def run(config: Config, *, once: bool) -> None:
    """Serve in front of the mock and demonstrate. Raises `DemoError`, `ConfigError`, `ServeError`."""
    if not config.capture.active:
        raise DemoError("nothing would be recorded, because of `llm logs off`; run: llm logs on")
    check_startable(config)
    sock = listen(config)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    show = _Show(config, url, once)
    show.start()
    serve(config, sock)
    show.join()
    if show.failure is not None:
        raise DemoError(show.failure)


class _Show(threading.Thread):
    """The client: in a thread of its own, since the server has the main one."""

    def __init__(self, config: Config, url: str, once: bool) -> None:
        super().__init__(name="demo", daemon=True)
        self._config = config
        self._url = url
        self._once = once
        self.failure: str | None = None

    def run(self) -> None:
        try:
            agent = f"llmproxy-demo/{secrets.token_hex(8)}"
            self._chat(agent)
            self._recorded(agent)
            if not self._once:
                click.echo(
                    "\nIt goes on serving, in front of the mock provider; Ctrl-C ends it. Point a program at it:"
                )
                click.echo(f"  export OPENAI_BASE_URL={self._url} OPENAI_API_KEY=any")
                click.echo(f"  export ANTHROPIC_BASE_URL={self._url.removesuffix('/v1')} ANTHROPIC_API_KEY=any")
        except (DemoError, httpx2.HTTPError) as exc:
            self.failure = f"the demonstration failed: {exc}"
        if self._once or self.failure is not None:
            os.kill(os.getpid(), signal.SIGTERM)

    def _chat(self, agent: str) -> None:
        click.echo(f"A streamed chat through {self._url}:\n\n  you    {QUESTION}\n  model  ", nl=False)
        request = {
            "model": "mock",
            "stream": True,
            "messages": [{"role": "user", "content": QUESTION}],
        }
        headers = {"user-agent": agent, "x-mock-answer": ANSWER, "x-mock-chunk-delay": "0.04"}
        with httpx2.Client(trust_env=False, timeout=10) as client:
            with client.stream("POST", f"{self._url}/chat/completions", json=request, headers=headers) as response:
                if response.status_code != 200:
                    raise DemoError(f"the answer was {response.status_code}: {response.read().decode()[:200]}")
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        for choice in json.loads(line.removeprefix("data: "))["choices"]:
                            click.echo(choice["delta"].get("content") or "", nl=False)
        click.echo("\n")

    def _recorded(self, agent: str) -> None:
        path = self._config.capture.database_path
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (thread := _thread_of(agent, f"file:{path}?mode=ro")) is None:
            if time.monotonic() > deadline:
                raise DemoError(f"the conversation did not appear in {path}")
            time.sleep(0.05)
        click.echo(f"As recorded in {path}; {self._config.capture.logs_command} -c shows:\n")
        shown = subprocess.run(
            [sys.executable, "-m", "llm", "logs", "--cid", thread, "-d", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.returncode != 0 or ANSWER not in shown.stdout:
            raise DemoError(f"llm logs does not show it: {(shown.stderr or shown.stdout).strip()[-300:]}")
        click.echo("\n".join(f"  {line}".rstrip() for line in shown.stdout.strip().splitlines()))


def _thread_of(agent: str, uri: str) -> str | None:
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=1)
    except sqlite3.OperationalError:
        return None  # not made yet
    try:
        row = connection.execute("select thread_id from llmproxy_exchanges where user_agent = ?", [agent]).fetchone()
        return row[0] if row is not None else None
    except sqlite3.OperationalError:
        return None  # the ingester is making the tables
    finally:
        connection.close()
