"""A small search-and-answer service as they are met in the wild, with an event stream of its own."""

import asyncio
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from llmproxy.errors import ResponseCut
from llmproxy.transports.asgi import Receive, Send
from tests.proxy import app_in_thread

# What it does besides sending: wait until the test lets it go on, break the connection, wait until the client is gone.
Action = Literal["wait", "cut", "hang"]


def word(text: str) -> bytes:
    """As Python's `f"data: {dict}"` writes it, which is not JSON."""
    return f"data: { ({'type': 'response', 'data': text}) }\n\n".encode()


def citation(text: str) -> bytes:
    return f"data: { ({'type': 'citation', 'data': text}) }\n\n".encode()


ANSWER = (word("Lemons "), citation("doc-7"), word("don't "), word("sink."), citation("doc-2"), citation("doc-7"))
WHOLE = "Lemons don't sink.\n\nCitations:\n\n- doc-7\n- doc-2"


@dataclass
class LegacyService:
    """`GET /stream?…&search_query=…`, answered as the script says. `port` is set once it serves.

    - `asked`: method, path and query of each request, as they came.
    - `go`: lets `wait` go on; `gone`: the client went while it was waited for.
    """

    script: Sequence[bytes | Action] = ANSWER
    status: int = 200
    port: int = 0
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream?topNDocuments=3&sessionID=12345"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await receive()
        self.asked.append((scope["method"], scope["path"], scope["query_string"]))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for step in self.script:
            if isinstance(step, bytes):
                await send({"type": "http.response.body", "body": step, "more_body": True})
            elif step == "wait":
                await asyncio.to_thread(self.go.wait, 20)
            elif step == "cut":
                raise ResponseCut("the service dies")
            else:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.gone.set()
                return
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def legacy_service(*script: bytes | Action, status: int = 200) -> Iterator[LegacyService]:
    """Serve one on a free port."""
    service = LegacyService(script or ANSWER, status)
    with app_in_thread(service) as service.port:
        yield service
