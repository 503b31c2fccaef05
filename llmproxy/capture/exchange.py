"""An exchange as a value: what passed, when, and how it ended."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llmproxy.headers import Header

Outcome = Literal[
    "complete",  # the response reached its end, whatever its status
    "error_in_stream",  # a 200 whose stream carried an error
    "upstream_cut",  # the upstream broke off after the response began
    "upstream_unreachable",
    "upstream_protocol",  # what the upstream sent is not HTTP
    "timeout",
    "client_gone",
    "interrupted",  # our own process died, or was told to end
    "refused",  # by llmproxy
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# Names the turn that an exchange asks again. What comes back is a thread of its own, forked from that turn's, and no
# request is ever taken to continue it: it is our own question, not the user's conversation. Recorded, never sent on.
FORK_OF = b"x-llmproxy-fork-of"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request and its response, as recorded. Credentials have been redacted.

    - `id`: a ULID in lower case, chosen when the exchange began; it is the turn's id too.
    - `upstream`: the upstream's name; `path`: the request target that the client asked for, with its query.
    - `client`: the name of the client whose key was used, else None.
    - `started`: seconds since the epoch. All other times are microseconds after it, from a monotonic clock.
    - `request_body`, `response_body`: the bytes as they passed, still content-encoded; cut at `max_body_bytes` where
      `request_truncated` or `response_truncated` says so. `response_body` is pieces with the time each came.
    - `status`, `response_headers`: None and empty where no response came.
    - `request_bytes`, `response_bytes`: the sizes of the bodies as they passed, cut or not.
    """

    id: str
    upstream: str
    method: str
    path: str
    client: str | None
    started: float
    request_headers: tuple[Header, ...]
    request_body: bytes
    status: int | None
    response_headers: tuple[Header, ...]
    response_body: Sequence[tuple[int, bytes]]
    outcome: Outcome
    error: str | None = None
    duration_us: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    request_truncated: bool = False
    response_truncated: bool = False

    @property
    def first_byte_us(self) -> int | None:
        """When the first piece of the response's body came."""
        return self.response_body[0][0] if self.response_body else None


CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class ExchangeIds:
    """Makes ULIDs (https://github.com/ulid/spec) in lower case, as `llm` has them, each greater than the one before.

    The 80 bits of randomness are 40 random bits for the process and a 40-bit counter with a random start: one
    increment for each id, and no clash between processes. A clock that steps back does not bring order down.
    """

    def __init__(self) -> None:
        self._process = _base32(int.from_bytes(os.urandom(5), "big"), 8)
        self._counter = int.from_bytes(os.urandom(4), "big")
        self._millisecond = 0
        self._time = self._counted = ""

    def new(self) -> str:
        now = time.time_ns() // 1_000_000
        if now > self._millisecond:
            self._millisecond = now
            self._time = _base32(now, 10) + self._process
        self._counter += 1
        last = self._counter & 1023
        if not last or not self._counted:
            self._counted = _base32((self._counter >> 10) & 0x3FFFFFFF, 6)
        return self._time + self._counted + _PAIRS[last]


# An id is made for every exchange, so two digits at a time.
_PAIRS = [first + second for first in CROCKFORD for second in CROCKFORD]


def _base32(number: int, width: int) -> str:
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * (width - 2), -1, -10)])
