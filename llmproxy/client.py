"""What our own server tells the app of a request besides ASGI's scope."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from llmproxy.headers import Header

EXTENSION = "llmproxy"


class Client(Protocol):
    """The client's side of one request, as `scope["extensions"]["llmproxy"]`. Other ASGI servers give none.

    - `target`: the request target as it was sent; ASGI's path and query do not tell `/x?` from `/x`.
    - `fields`: the header fields with their names as the client wrote them.
    - `on_disconnect`: called once when the client goes away before its response is complete, so that nobody needs a
      task that waits in `receive` for it. Set it in the step in which the end of the body was received.
    - `task`: what runs the app.
    - `write`: sends a piece of the body now, where `send` has begun the response; false where the next one has to go
      through `send`, which waits for a slow client.

    In turn its `http.response.start` may say, besides what ASGI has: `reason`, the reason phrase as bytes, and
    `with_body`, that a piece of the body is sent in the same step, so that the head can wait for it.
    """

    target: bytes
    fields: list[Header]
    on_disconnect: Callable[[], None] | None
    task: asyncio.Task[None] | None

    def write(self, piece: bytes) -> bool: ...


def client_of(scope: Mapping[str, Any]) -> Client | None:
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None
