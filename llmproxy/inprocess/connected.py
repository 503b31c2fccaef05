"""Answering over ASGI for as long as there is a client: what an app of ours does while it waits for something else."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


class ClientGone(Exception):
    """The client went away."""


async def whole_body(receive: Receive) -> bytes:
    """The request's body. Raises `ClientGone` where the client went before its end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def while_connected(answering: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run `answering` unless the client goes: then it is cancelled, and `ClientGone` raised. Call it once the request's
    body was read. What `answering` raises is raised; the `OSError` of a `send` that nobody reads is `ClientGone` too.
    """
    loop = asyncio.get_running_loop()
    answer, gone = loop.create_task(answering), loop.create_task(_disconnected(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = answer.done()
        answer.cancel()
        gone.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)
    if not ended:
        raise ClientGone
    try:
        answer.result()
    except OSError:
        # A server may say so by `send` (ASGI specification, HTTP, "Disconnected Client - send exception").
        raise ClientGone from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
