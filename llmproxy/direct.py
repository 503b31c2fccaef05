"""Direct: one exchange between our own server and our own HTTP/1.1 transport, by callbacks alone.

It does what `forward` does, and what it says of an exchange's life holds here too. A task, ASGI's messages and httpx2's
objects would be half of what a short exchange costs, so here whoever has something calls whoever wants it: the client's
protocol when a request has come, the spool when it is written, the upstream's connection when a piece of the response
is there. A task is made only where something is waited for that seldom has to be: a connection that is not there yet, a
body that comes bit by bit, a disk.

What follows from a request's head alone (who may call, where it goes, its head there, what is recorded of it) is worked
out once for all requests that have the same one.
"""

from collections.abc import Callable

import httpx2

from llmproxy.capture.tee import RequestHead, Tee
from llmproxy.client import DirectClient, Head
from llmproxy.errors import ProxyError
from llmproxy.forward import headers_for, is_websocket, question
from llmproxy.guard import Guard
from llmproxy.headers import Header
from llmproxy.passage import Passage, Plan
from llmproxy.transports.http1 import HTTP1Transport, request_head
from llmproxy.upstreams import Upstreams

# Stands for the length of a body, which differs from request to request. No field of a request can hold it (RFC 9110
# section 5.5).
_LENGTH = b"\1"


class Direct:
    """Takes those requests that need nothing but `guard` and an upstream that `HTTP1Transport` reaches.

    `is_ours`: tells the paths that are not forwarded, from a head.
    """

    def __init__(self, guard: Guard, upstreams: Upstreams, tee: Tee, is_ours: Callable[[Head], bool]) -> None:
        self._guard = guard
        self._upstreams = upstreams
        self._is_ours = is_ours
        self._tee = tee

    def take(self, client: DirectClient) -> Passage | None:
        """What will answer a request when it is begun; None where ASGI's way is the one."""
        head = client.head
        plan = head.plan
        if plan is None:
            plan = head.plan = self._plan(head) or False
        return Passage(self._tee, plan, client) if plan else None

    def _plan(self, head: Head) -> Plan | None:
        if self._is_ours(head) or is_websocket(head.headers):
            return None
        try:
            caller = self._guard.admit(head.headers)
            upstream, path = self._upstreams.resolve(head.raw_path)
            transport = upstream.transport
            if not isinstance(transport, HTTP1Transport):
                return None
            behind = question(head.query, head.target)
            length = _LENGTH if head.length_at >= 0 else None
            fields = headers_for(upstream, caller, head.with_length(head.fields, length))
            text = request_head(head.method, path + behind or b"/", fields)
            pool = transport.pool_of(upstream.url)
        except (ProxyError, httpx2.TransportError):
            return None  # `forward` comes to the same, and says so to the client
        headers: list[Header] = head.with_length(head.headers, length)
        recorded = self._tee.text(
            RequestHead(upstream.name, caller.client, head.method, head.raw_path + behind, headers)
        )
        marks = {text.count(_LENGTH), recorded.count(_LENGTH) if recorded else text.count(_LENGTH)}
        if marks != {0 if length is None else 1}:
            return None  # the client or the configuration has the length dropped, replaced or redacted
        timeout = upstream.timeout or {}
        return Plan(
            upstream=upstream,
            pool=pool,
            method=head.method,
            head=_around_length(text),
            recorded=_around_length(recorded),
            chunked=any(name == b"transfer-encoding" for name, _ in head.headers),
            connect_timeout=timeout.get("connect"),
            read_timeout=timeout.get("read"),
            write_timeout=timeout.get("write"),
        )


def _around_length(text: bytes) -> tuple[bytes, bytes]:
    before, _, after = text.partition(_LENGTH)
    return before, after
