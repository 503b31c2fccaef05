"""The load: what clients ask, how the upstream behaves, and what both of them saw."""

import collections
import hashlib
import itertools
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx2

from tests.raw_upstream import Connection, RawRequest, answer

CLIENTS = 8
READ_TIMEOUT = 1.0  # of the proxy; an upstream that stalls is given up after it
BEHAVIOURS = {
    "answer": 30,
    "stream": 30,
    "large answer": 2,
    "large request": 2,
    "large stream": 1,
    "vanish": 5,  # the client goes away in the middle
    "vanish at once": 3,
    "reset": 4,
    "reset at once": 3,
    "cut": 3,
    "stall": 1,
    "garbage": 3,
}
"""How an exchange goes, and how often."""
WHOLE = frozenset(("answer", "stream", "large answer", "large request", "large stream"))
"""Those that end well where nothing else happens."""
LARGE = 300_000


@dataclass
class Load:
    """What clients and the upstream saw, by the number of each request."""

    url: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    behaviours: dict[int, str] = field(default_factory=dict)
    complete: dict[int, int] = field(default_factory=dict)  # number → size of the body
    reached: list[int] = field(default_factory=list)
    seen: "collections.Counter[str]" = field(default_factory=collections.Counter)
    mistakes: list[str] = field(default_factory=list)


def question(number: int, behaviour: str) -> str:
    """What a request asks. Large ones begin alike, so that the spool has most of them already."""
    return ("?" * LARGE if behaviour == "large request" else "") + f"number {number}"


def text(number: int, behaviour: str) -> str:
    """The answer to a request."""
    words = f"answer {number}"
    if behaviour.startswith("large") and behaviour != "large request":
        digest = hashlib.sha256(words.encode()).hexdigest()
        words += " " + (digest * (LARGE // len(digest)))
    return words


def body_of(number: int, behaviour: str) -> bytes:
    """The whole answer, without chunks."""
    if "stream" not in behaviour and behaviour not in ("vanish", "reset", "cut", "stall"):
        message = {"role": "assistant", "content": text(number, behaviour)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode()
    return b"".join(_events(number, behaviour))


def _events(number: int, behaviour: str) -> Iterator[bytes]:
    words = text(number, behaviour)
    step = max(8, len(words) // 20)
    for piece in (*(words[at : at + step] for at in range(0, len(words), step)), None):
        delta = {} if piece is None else {"role": "assistant", "content": piece}
        choice = {"index": 0, "delta": delta, "finish_reason": None if piece else "stop"}
        yield b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def upstream_handler(load: Load, chance: random.Random) -> Callable[[Connection, RawRequest], bool]:
    def handler(connection: Connection, request: RawRequest) -> bool:
        fields = dict(request.headers)
        number, behaviour = int(fields[b"x-number"]), fields[b"x-behaviour"].decode()
        load.reached.append(number)
        if behaviour == "reset at once":
            return reset(connection)
        if behaviour == "garbage":
            connection.send(b"\x00\xff\x16 220 this is no HTTP\r\n\r\n")
            return False
        if behaviour not in ("stream", "large stream", "vanish", "reset", "cut", "stall"):
            connection.send(answer(body_of(number, behaviour)))
            return True
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for at, event in enumerate(_events(number, behaviour)):
            if at == 1 and behaviour == "reset":
                return reset(connection)
            if at == 1 and behaviour == "cut":
                return False
            if at == 1 and behaviour == "stall":
                load.seen["stalls given up by the proxy"] += connection.wait_closed(READ_TIMEOUT * 20)
                return False
            connection.send(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(chance.random() * 0.01)  # the upstream's own pace, not a wait for something
        connection.send(b"0\r\n\r\n")
        return True

    return handler


def reset(connection: Connection) -> bool:
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def client(load: Load, seed: int) -> None:
    """Ask until told to stop."""
    chance = random.Random(seed)
    while not load.stop.is_set():
        with httpx2.Client(timeout=30, verify=False, trust_env=False) as session:
            # Now and then a client begins anew, as programs do.
            for _ in range(50):
                if load.stop.is_set():
                    return
                (behaviour,) = chance.choices([*BEHAVIOURS], [*BEHAVIOURS.values()])
                ask(load, session, behaviour)
                load.stop.wait(chance.random() * 0.01)


def ask(load: Load, session: httpx2.Client, behaviour: str) -> None:
    """Ask once, and note what came of it."""
    number = next(load.numbers)
    load.behaviours[number] = behaviour
    body = {
        "model": "m",
        "stream": "stream" in behaviour or behaviour in ("vanish", "reset", "cut", "stall"),
        "messages": [{"role": "user", "content": question(number, behaviour)}],
    }
    headers = {"x-number": str(number), "x-behaviour": behaviour}
    try:
        with session.stream("POST", f"{load.url}/v1/chat/completions", json=body, headers=headers) as response:
            if behaviour == "vanish at once":
                load.seen["vanished"] += 1
                return
            if behaviour == "vanish":
                next(response.iter_raw(), b"")
                load.seen["vanished"] += 1
                return
            got = b"".join(response.iter_raw())
    except httpx2.TransportError:
        load.seen["broken at the client"] += 1
        load.stop.wait(0.05)
        return
    if response.status_code != 200:
        load.seen[f"answered {response.status_code} {response.headers.get('x-llmproxy-error')}"] += 1
        load.stop.wait(0.02)
    elif got == body_of(number, behaviour) and behaviour in WHOLE:
        load.complete[number] = len(got)
    else:
        load.mistakes.append(f"number {number} ({behaviour}): {len(got)} bytes look complete and are not the answer")
