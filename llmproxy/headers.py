"""The rules for header fields, as pure functions.

Header fields are ordered pairs of bytes, as ASGI and httpx2 have them: nothing is merged, sorted or dropped that a rule
below does not name.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

Header = tuple[bytes, bytes]
Headers = Sequence[Header]

REDACTED = b"[redacted]"

# Fields that are recorded with a request and never sent on: it came by a path of ours, with these ids (see `ask`).
VIA = b"x-llmproxy-via"
ASK_CLIENT_ID = b"x-llmproxy-ask-client-id"
ASK_USER_ID = b"x-llmproxy-ask-user-id"

# RFC 9110 section 7.6.1: what concerns one connection only is not forwarded. `Proxy-Authorization` is for us where a
# client sends it (section 11.7.2), `Proxy-Authenticate` speaks of the next hop.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# `Host` names the next hop; `Expect: 100-continue` has been answered by the server when the body is read.
_NOT_SENT_UPSTREAM = HOP_BY_HOP | {b"host", b"expect"}

_SECRET_HEADER = re.compile(
    rb"authorization|cookie|(api[-_]?keys?|token|secret|password|passwd|credentials?|signature)$"
    rb"|(^|[-_])(key|auth)$|^authentication$"
)
_SECRET_PARAMETER = re.compile(
    rb"(api[-_]?key|authorization|token|secret|password|passwd|credentials?|signature)$|(^|[-_.])(key|auth|code|sig)$"
)


def request_headers(client: Headers, host: bytes, defaults: Headers, replaced: frozenset[bytes]) -> list[Header]:
    """The header fields to send upstream.

    - `client`: what the client sent, names in lower case (ASGI).
    - `host`: the upstream's authority; it goes first (RFC 9110 section 7.2).
    - `defaults`: fields of the configuration, appended in their order.
    - `replaced`: names, in lower case, that are not taken from the client: those of `defaults`, those that the
      configuration removes, and the field that carried the client's own llmproxy key.
    """
    headers = [(b"host", host)]
    dropped, named = _not_sent_upstream(replaced), _named_by_connection(client)
    headers += _without(client, dropped | named if named else dropped)
    headers += defaults
    return headers


def response_headers(upstream: Headers, status: int) -> list[Header]:
    """The header fields to send to the client: the upstream's, without those of its connection.

    A 204 and a 304 have no body, so a server framing our answer must not be told of one (RFC 9110 section 8.6).
    """
    named = _named_by_connection(upstream)
    dropped = HOP_BY_HOP | named if named else HOP_BY_HOP
    if status in (204, 304):
        dropped |= {b"content-length"}
    return _without(upstream, dropped)


def _without(headers: Headers, dropped: frozenset[bytes]) -> list[Header]:
    # Most names are told apart from those by their length, which costs a third of making and looking one up.
    lengths = _lengths(dropped)
    return [header for header in headers if len(header[0]) not in lengths or header[0].lower() not in dropped]


@lru_cache(maxsize=256)
def _lengths(names: frozenset[bytes]) -> frozenset[int]:
    return frozenset(map(len, names))


@lru_cache(maxsize=256)
def _not_sent_upstream(replaced: frozenset[bytes]) -> frozenset[bytes]:
    return _NOT_SENT_UPSTREAM | replaced


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    # RFC 9110 section 7.6.1: an intermediary removes the fields that `Connection` names. `close` and `keep-alive` are
    # the usual ones and name no field that is not dropped anyway, so the common case builds no set.
    names: frozenset[bytes] = frozenset()
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection" and value.lower() not in (b"close", b"keep-alive"):
            names |= {token.strip().lower() for token in value.split(b",")}
    return names


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of the field `name` (in lower case), or None."""
    length = len(name)
    for key, value in headers:
        if len(key) == length and key.lower() == name:
            return value
    return None


def redact_headers(headers: Iterable[Header], more: frozenset[bytes] = frozenset()) -> list[Header]:
    """The fields with the values of credentials replaced by `[redacted]`, so that they may be written to disk.

    `more`: names in lower case that the configuration adds to the built-in rule.
    """
    secrets = SecretNames(more)
    return [(name, REDACTED if secrets[name] else value) for name, value in headers]


class SecretNames(dict[bytes, bool]):
    """Whether a field of this name holds a credential, for the names seen so far and any other.

    `more`: names in lower case that the configuration adds to the built-in rule.
    """

    def __init__(self, more: frozenset[bytes] = frozenset()) -> None:
        self._more = more

    def __missing__(self, name: bytes) -> bool:
        lower = name.lower()
        secret = lower in self._more or _SECRET_HEADER.search(lower) is not None
        if len(self) < 1024:  # whoever makes names up shall not fill our memory
            self[name] = secret
        return secret


def redact_query(query: bytes) -> bytes:
    """The query string with the values of key-like parameters (`key`, `api_key`, `access_token` …) replaced."""
    if b"=" not in query:
        return query
    return re.sub(rb"([^&;=]+)=([^&;]*)", _redact_parameter, query)


def _redact_parameter(match: re.Match[bytes]) -> bytes:
    name = unquote_to_bytes(match[1]).lower()
    return match[1] + b"=" + REDACTED if _SECRET_PARAMETER.search(name) else match[0]
