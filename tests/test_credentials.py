"""No credential reaches the database, wherever in an exchange it stands."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmproxy.capture.spool import SpoolWriter
from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.metrics import Metrics
from tests.test_ingest import capture, ingest, request, response, rows

Header = tuple[bytes, bytes]
JSON: Header = (b"content-type", b"application/json")
FORM: Header = (b"content-type", b"application/x-www-form-urlencoded")
CHAT = "/v1/chat/completions"
SECRET = "s3cr3t"
TOOL = {"type": "mcp", "server_label": "s", "authorization": SECRET, "headers": {"X-Foo": SECRET}}
ECHO = {
    "id": "r",
    "object": "response",
    "model": "m",
    "status": "completed",
    "tools": [TOOL],
    "output": [
        {"type": "message", "id": "i", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]}
    ],
}
SOURCE = {"type": "azure_search", "parameters": {"authentication": {"type": "api_key", "key": SECRET}}}


def record(
    writer: SpoolWriter, path: str, body: Any, answer: Any, *headers: Header, status: int = 200, sent: Header = JSON
) -> None:
    tee = Tee(writer, Metrics(), max_body_bytes=1 << 20)
    recording = tee.begin(RequestHead("up", None, "POST", path.encode(), [sent, *headers]))
    recording.request_body(body if isinstance(body, bytes) else json.dumps(body).encode())
    recording.request_written()
    recording.response(status, [JSON, *headers])
    recording.response_body(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    recording.end("complete")


@pytest.mark.parametrize("raw", ["failed", "all"])
def test_no_credential_is_in_the_database(tmp_path: Path, raw: str) -> None:
    settings = capture(tmp_path, raw=raw)
    url = f"https://u:{SECRET}@h/x?sig={SECRET}".encode()
    stream = f"data: {json.dumps({'type': 'response.created', 'response': ECHO})}\n\ndata: {{".encode()

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        record(writer, "/v1/responses", {"model": "m", "input": "x", "tools": [TOOL]}, ECHO)
        record(writer, "/v1/responses", {"model": "m", "input": "y", "tools": [TOOL]}, {**ECHO, "output": [{}]})
        record(writer, "/v1/responses", {"model": "m", "input": "z", "tools": [TOOL], "stream": True}, stream)
        record(writer, CHAT, {**json.loads(request("a")), "data_sources": [SOURCE]}, response("b"))
        record(writer, CHAT, request("c"), b"", (b"location", url), (b"referer", url), status=302)
        record(writer, f"http://u:{SECRET}@h{CHAT}?apikey={SECRET}", request("d"), response("e"))
        record(writer, "/v1/realtime/client_secrets", {}, {"value": SECRET, "expires_at": 1})
        record(writer, "/v1/organization/admin_api_keys", {}, {"object": "admin_api_key", "value": SECRET})
        form = f"grant_type=refresh_token&refresh_token={SECRET}&client_secret={SECRET}".encode()
        record(writer, "/v9/token", form, {"access_token": SECRET, "kept": 1}, sent=FORM)
        writer.close()

    asyncio.run(run())
    assert asyncio.run(ingest(settings))
    assert rows(settings, "select count(*) from llmproxy_exchanges") == [(9,)]
    for file in tmp_path.glob("logs.db*"):
        assert SECRET.encode() not in file.read_bytes()
    ((answer,),) = rows(settings, "select response_body from llmproxy_exchanges where path = '/v9/token'")
    assert answer == b'{"access_token": "******", "kept": 1}'


UNKNOWN = ["/files/v1/new", "/v1/responses/r/cancel"]
NO_CONVERSATION = ["/up/v1/audio/speech?x=1", "/v1/files", "/v1/fine_tuning/jobs", "/v1/messages/count_tokens"]


@pytest.mark.parametrize("raw", ["failed", "all"])
def test_what_is_no_conversation_is_a_row_without_bodies(tmp_path: Path, raw: str) -> None:
    settings = capture(tmp_path, raw=raw)

    async def run() -> None:
        writer = SpoolWriter(settings.spool_path)
        for path in UNKNOWN + NO_CONVERSATION:
            for status in (200, 400):
                record(writer, path, {"a": 1}, {"b": 2}, status=status)
        writer.close()

    asyncio.run(run())
    assert asyncio.run(ingest(settings))
    bodies = (b'{"a": 1}', b'{"b": 2}')
    others = bodies if raw == "all" else (None, None)
    found = rows(settings, "select path, status, reason, request_body, response_body from llmproxy_exchanges")
    expected = [(path, status, "no reader for this path", *bodies) for path in UNKNOWN for status in (200, 400)]
    expected += [(path, status, None, *others) for path in NO_CONVERSATION for status in (200, 400)]
    assert sorted(found) == sorted(expected)
