"""What our own server tells the app of a request besides what ASGI does."""

import re
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from llmproxy.errors import ProxyError
from llmproxy.headers import Header

EXTENSION = "llmproxy"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*(?=\r\n)", re.IGNORECASE)
# As many as the parser takes for certain (llhttp: 64 bits).
_MOST_DIGITS = 18

KEPT_HEADS = 256
# A larger head is not kept: whoever makes them up shall not fill our memory.
KEPT_HEAD_BYTES = 4096


class Head:
    """A request's head, and what follows from it alone. Raises `ProxyError` for what the parser lets pass and RFC 9112
    does not, or does not say how to understand.

    - `fields`: as the client wrote them; `headers`: the same with their names in lower case (ASGI).
    - `length_at`: where in both `Content-Length` is, or -1. Its value is left out: it is what differs most often
      between one request of a client and the next.
    - `raw_path`, `query`, `path`: as in ASGI's scope.
    - `plan`: what the app made of it, for the next time.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "http_version",
        "length_at",
        "method",
        "path",
        "plan",
        "query",
        "raw_path",
        "target",
    )

    def __init__(
        self, method: bytes, http_version: str, target: bytes, fields: tuple[Header, ...], length_at: int
    ) -> None:
        self.method = method.decode("ascii")
        self.http_version = http_version
        self.target = target
        self.fields = fields
        self.length_at = length_at
        self.headers = [(name.lower(), value) for name, value in fields]
        self.plan: Any = None
        self._check()
        # RFC 9110 section 10.1.1: in HTTP/1.0 it is ignored.
        self.expects_continue = http_version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )
        self.raw_path, _, self.query = target.partition(b"?")
        if not self.raw_path.startswith(b"/"):
            self.raw_path, self.query = _path_of(target)
        path = self.raw_path.decode("ascii")
        self.path = unquote(path) if "%" in path else path

    def _check(self) -> None:
        version = self.http_version
        if version not in ("1.1", "1.0"):
            raise ProxyError("bad_request", f"HTTP/{version} is not spoken here; use HTTP/1.1")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):  # section 3.2
            raise ProxyError("bad_request", f"a request has one Host, and this one has {hosts}")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):  # sections 6.1, 7
            raise ProxyError("bad_request", "the only transfer coding that is understood is chunked, in HTTP/1.1")

    def with_length(self, fields: list[Header] | tuple[Header, ...], length: bytes | None) -> list[Header]:
        """`fields` or `headers` as they came."""
        whole = list(fields)
        if length is not None:
            whole[self.length_at] = (whole[self.length_at][0], length)
        return whole


class Heads:
    """The heads that came last: a client sends nearly the same one with each of its requests."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, str, bytes, tuple[Header, ...]], Head] = {}

    def get(self, method: bytes, http_version: str, target: bytes, fields: list[Header], length_at: int) -> Head:
        """The head of these parts; the value of the `Content-Length` at `length_at` is left out. Raises `ProxyError`
        as `Head` does."""
        key = (method, http_version, target, tuple(fields))
        head = self._kept.get(key)
        if head is None:
            head = Head(*key, length_at)
            if size_of(target, fields) <= KEPT_HEAD_BYTES:
                if len(self._kept) >= KEPT_HEADS:
                    self._kept.clear()
                self._kept[key] = head
        return head


class KnownHead:
    """A head as it came, of which nothing may differ but the value of `Content-Length`. A request that begins with it
    need not be parsed: what was found in the head would be found again."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self._before = before
        self._after = after

    @classmethod
    def of(cls, head: Head, length: bytes | None, raw: bytes) -> "KnownHead | None":
        """`raw`: the bytes that `head` and `length` were read from. None where they are more than that, or less."""
        found = list(_CONTENT_LENGTH.finditer(raw))
        if len(found) != 1 or found[0][1] != length or raw.find(b"\r\n\r\n") != len(raw) - 4:
            return None
        return cls(head, raw[: found[0].start(1)], raw[found[0].end(1) :])

    def found_in(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The value of `Content-Length`, and what is behind the head, where `data` begins with it."""
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        length = data[at:end]
        return (length, data[end + len(self._after) :]) if length.isdigit() else None


class Client(Protocol):
    """The client's side of one request, as `scope["extensions"]["llmproxy"]`. Other ASGI servers give none.

    - `target`: the request target as it was sent; ASGI's path and query do not tell `/x?` from `/x`.
    - `fields`: the header fields with their names as the client wrote them.
    """

    @property
    def target(self) -> bytes: ...
    @property
    def fields(self) -> list[Header]: ...


class DirectClient(Client, Protocol):
    """The client's side of a request that is answered without ASGI: see `direct`.

    - `head`, and `length`: the value of its `Content-Length`.
    - `whole`: whether all of the body has come. `take` gives it then; until then `receive` does, as in ASGI.
    - `when_whole`: calls back when it has; false where it is too large to be waited for, or the client waits for us.
    - `on_disconnect`: called once when the client goes away before its response is complete.
    """

    head: Head
    length: bytes | None
    whole: bool
    on_disconnect: Callable[[], None] | None

    def take(self) -> bytes: ...

    def when_whole(self, callback: Callable[[], None]) -> bool: ...

    def receive(self) -> Awaitable[MutableMapping[str, Any]]: ...

    def start(self, status: int, lines: list[bytes], length: int | None) -> None:
        """Begin the response: status line and field lines, with neither framing nor `Connection`, and the length of the
        body where `Content-Length` says it. It goes out with the first piece, or with `flush`."""

    def flush(self) -> None: ...

    def write(self, piece: bytes, more: bool) -> Future[None] | None:
        """Send a piece of the body. Returns what to wait for before the next, where the client does not read."""

    def answer(self, error: ProxyError) -> None:
        """The response is this error."""

    def fail(self) -> None:
        """Whatever was sent so far, the client learns that it is not whole."""

    def leave(self) -> None:
        """Nothing more will be done for this request."""


class DirectAnswer(Protocol):
    """What answers a request without ASGI."""

    def begin(self) -> None: ...

    def cancel(self, msg: str | None = None) -> None: ...


def client_of(scope: Mapping[str, Any]) -> Client | None:
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None


def size_of(target: bytes, fields: Iterable[Header]) -> int:
    """About the bytes that a head takes on the wire."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in fields)


def _path_of(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target that is no path (RFC 9112 section 3.2)."""
    if target == b"*":
        return target, b""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise ProxyError("bad_request", "the request target is no path and no URL") from None
    return url.path or b"/", url.query or b""
