"""One connection of our server on a wire that gives and takes any bytes at any moment."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from llmproxy.server.protocol import HTTPProtocol


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def on_a_wire(app: Any) -> tuple[HTTPProtocol, ServerState, Wire]:
    """A client's connection to a server of `app`, the server's state, and what the client has got."""
    config = uvicorn.Config(app, http=HTTPProtocol, lifespan="off")
    config.load()
    state, wire = ServerState(), Wire()
    server = HTTPProtocol(config, state, {})
    server.connection_made(wire)
    return server, state, wire


def split(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return (data[start:end] for start, end in pairwise(places))


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """What a socket gives, up to and including `end`, which nothing may follow."""
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


async def steps(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
