"""Connecting: the addresses of a name are tried with a head start each (Happy Eyeballs, RFC 8305), the first one wins.

asyncio's `create_connection` does this with an argument that uvloop does not take; without it, one address that does
not answer uses up the whole time.
"""

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

# RFC 8305 section 5: the recommended delay between two attempts.
HEAD_START_SECONDS = 0.25

P = TypeVar("P", bound=asyncio.Protocol)
Address = tuple[int, Any]


async def connect(factory: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None) -> P:
    """A protocol connected to `host`, over TLS where there is a context. Raises `OSError`, `ssl.SSLError`."""
    loop = asyncio.get_running_loop()
    sock = await _race(await _addresses(host, port))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, protocol = await loop.create_connection(
            factory, sock=sock, ssl=context, server_hostname=host if context is not None else None
        )
    except BaseException:
        sock.close()
        raise
    return protocol


async def _addresses(host: str, port: int) -> list[Address]:
    """The addresses of a name, the families taking turns (RFC 8305 section 4)."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[int, list[Address]] = {}
    for family, _, _, _, address in infos:
        by_family.setdefault(family, []).append((family, address))
    turns = itertools.zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


async def _race(addresses: list[Address]) -> socket.socket:
    if len(addresses) == 1:
        return await _attempt(*addresses[0])
    loop = asyncio.get_running_loop()
    attempts: list[asyncio.Task[socket.socket]] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        for address in addresses:
            attempts.append(loop.create_task(_attempt(*address)))
            await asyncio.wait(attempts[-1:], timeout=HEAD_START_SECONDS)
            winner = _first_good(attempts)
            if winner is not None:
                return winner.result()
        while winner is None and (running := [attempt for attempt in attempts if not attempt.done()]):
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = _first_good(attempts)
        if winner is not None:
            return winner.result()
        error = attempts[0].exception()
        assert error is not None
        raise error
    finally:
        for attempt in attempts:
            attempt.cancel()
            if attempt is not winner:
                attempt.add_done_callback(_close_loser)


def _first_good(attempts: list[asyncio.Task[socket.socket]]) -> asyncio.Task[socket.socket] | None:
    return next((a for a in attempts if a.done() and not a.cancelled() and a.exception() is None), None)


def _close_loser(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _attempt(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
