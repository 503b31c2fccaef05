"""The mock as an upstream that writes down each call, fails when it is told to, and judges."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llmproxy.inprocess.mock import create_app as create_mock


def create_app(options: Mapping[str, Any]) -> ASGIApp:
    """`options`: those of the mock; `log`, the file to write to; `fail_once`, the status that the first call of the
    model `flaky` gets."""
    rest = dict(options)
    log, fail_once = Path(rest.pop("log")), rest.pop("fail_once", 429)
    mock = create_mock(rest)
    failed: set[str] = set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await mock(scope, receive, send)
            return
        message = await receive()
        assert not message.get("more_body", False)
        body = json.loads(message["body"])
        text = json.dumps(body.get("messages"))
        call = {
            "model": body.get("model"),
            "text": text,
            "stream": body.get("stream"),
            "body": body,
            "headers": [name.decode() for name, _ in scope["headers"]],
        }
        with log.open("a") as file:
            file.write(json.dumps(call) + "\n")
        if body["model"] == "judge":
            body["mock"] = {"answer": _judged(body["messages"][-1]["content"])}
        if body["model"] == "flaky" and text not in failed:
            failed.add(text)
            body["mock"] = {"status": fail_once, **({"retry_after": 0} if fail_once == 429 else {})}
        if body["model"] == "broken":
            body["mock"] = {"status": 400, "error": "no such luck"}
        sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def once() -> Any:
            return sent.pop() if sent else await receive()

        scope["headers"] = [field for field in scope["headers"] if field[0] != b"content-length"]
        await mock(scope, once, send)

    return app


def _judged(question: str) -> str:
    """The longer answer is the better one."""
    first, second = (re.search(rf"<answer_{at}>\n(.*?)\n</answer_{at}>", question, re.S) for at in (1, 2))
    if first is None or second is None:
        return 'Let me see.\n```json\n{"score": 7, "reason": "fine"}\n```'
    longer = len(first[1]) - len(second[1])
    winner = "tie" if longer == 0 else "1" if longer > 0 else "2"
    return json.dumps({"winner": winner, "reason": "longer"})


def calls(log: Path) -> list[dict[str, Any]]:
    """What was asked for, in order."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
