"""The upstream of the benchmarks: a process of its own that answers with preformatted bytes.

`python -m benchmarks.upstream` prints its port. The request's header `x-benchmark` says how it answers: `json`, one
answer of 1.2 KB; `stream`, 100 chunks, one per turn of the event loop, which is as fast as they go without becoming one
write; `paced`, a chunk every 10 ms that carries its time of sending; `hold`, a few chunks and then silence.

It knows as much HTTP as the contestants speak: requests with Content-Length, one at a time on a connection.
"""

import asyncio
import ctypes
import gc
import os
import sys
import time
from functools import lru_cache
from typing import cast

import uvloop

from benchmarks.messages import CHUNKS, HELD_CHUNKS, MARK, MODE_HEADER, TIME_DIGITS, compact, completion, event, text

PERIOD_NS = 10_000_000
SLOTS = 40


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_BODY = compact(completion(text(800)))
JSON_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n"
    b"x-request-id: req_0123456789abcdef0123456789abcdef\r\nx-ratelimit-remaining-requests: 9999\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nopenai-processing-ms: 12\r\n"
    b"x-request-id: req_0123456789abcdef0123456789abcdef\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_BEFORE_TIME, _, _AFTER_TIME = _chunk(event({"content": f"{MARK.decode()}{'0' * TIME_DIGITS} tok"})).partition(
    MARK + b"0" * TIME_DIGITS
)
_BEFORE_TIME += MARK
UNTIMED_CHUNK = _BEFORE_TIME + b"0" * TIME_DIGITS + _AFTER_TIME
STREAM_END = _chunk(event({}, "stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def timed_chunk() -> bytes:
    """A chunk of a stream that is sent now."""
    return b"%b%019d%b" % (_BEFORE_TIME, time.monotonic_ns(), _AFTER_TIME)


@lru_cache(maxsize=64)
def _read_head(head: bytes) -> tuple[bytes, int]:
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
    # Without a length we would wait for ever, and the contestant's mistake would look like slowness.
    return fields[MODE_HEADER], int(fields[b"content-length"])


class Pacer:
    """Sends a chunk of each stream every 10 ms, the streams spread evenly over the 10 ms.

    libuv's timers count whole milliseconds, in which a few hundred streams would come as bursts; a timerfd does not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._slots: list[list[Answering]] = [[] for _ in range(SLOTS)]
        self._at = 0
        self._next_slot = 0
        self._streams = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._tick)

    def add(self, stream: "Answering") -> None:
        if self._streams == 0:
            self._set_interval(PERIOD_NS // SLOTS)
        self._streams += 1
        # In turns, not where its time falls: streams that began in step would be sent in step.
        self._next_slot = (self._next_slot + 1) % SLOTS
        self._slots[self._next_slot].append(stream)

    def _tick(self) -> None:
        for _ in range(int.from_bytes(os.read(self._fd, 8), sys.byteorder)):  # more than one where we are late
            self._at = (self._at + 1) % SLOTS
            slot = self._slots[self._at]
            if slot:
                going_on = [stream for stream in slot if stream.write_timed_chunk()]
                self._streams -= len(slot) - len(going_on)
                self._slots[self._at] = going_on
        if self._streams == 0:
            self._set_interval(0)

    def _set_interval(self, nanoseconds: int) -> None:
        spec = (ctypes.c_long * 4)(0, nanoseconds, 0, nanoseconds)  # struct itimerspec
        if self._libc.timerfd_settime(self._fd, 0, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


class Answering(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_chunks", "_head", "_left", "_loop", "_mode", "_pacer", "_transport")

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, pacer: Pacer) -> None:
        self._loop = loop
        self._pacer = pacer
        self._head = b""
        self._left = 0
        self._mode = b""
        self._chunks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head = b""
            self._mode, length = _read_head(data[:end])
            self._left = length - (len(data) - end - 4)
        if self._left == 0:
            self._answer()

    def _answer(self) -> None:
        if self._mode == b"json":
            self._transport.write(JSON_ANSWER)
            return
        self._chunks = CHUNKS
        if self._mode == b"paced":
            self._transport.write(STREAM_HEAD)
            self.write_timed_chunk()
            self._pacer.add(self)
        elif self._mode == b"stream":
            self._transport.write(STREAM_HEAD)
            self._write_chunk()
        else:
            self._transport.write(STREAM_HEAD + UNTIMED_CHUNK * HELD_CHUNKS)

    def write_timed_chunk(self) -> bool:
        """Send the next chunk. Returns whether there are more to come."""
        self._chunks -= 1
        if self._transport.is_closing():
            return False
        if self._chunks:
            self._transport.write(timed_chunk())
            return True
        self._transport.write(timed_chunk() + STREAM_END)
        return False

    def _write_chunk(self) -> None:
        if self._transport.is_closing():
            return
        self._chunks -= 1
        if self._chunks:
            self._transport.write(UNTIMED_CHUNK)
            self._loop.call_soon(self._write_chunk)
        else:
            self._transport.write(UNTIMED_CHUNK + STREAM_END)


async def main() -> None:
    """Serve until killed."""
    gc.disable()  # nothing here makes cycles, and a pause would be taken for the proxy's
    loop = asyncio.get_running_loop()
    pacer = Pacer(loop)
    server = await loop.create_server(lambda: Answering(loop, pacer), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
