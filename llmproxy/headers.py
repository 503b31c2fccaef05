"""The rules for header fields, as pure functions.

Header fields are ordered pairs of bytes, as ASGI and httpx2 have them: nothing is merged, sorted or dropped that a rule
below does not name.
"""

import re
from collections.abc import Callable, Iterable, Sequence
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
    rb"authorization|cookie|api[-_]?key|auth[-_]?token|(token|secret|password|passwd|credentials?|signature)$"
    rb"|(^|[-_])(key|auth|jwt[-_]assertion|oidc[-_]data)$|^authentication$|^x-portkey-config$|^refresh$|^sec-websocket-protocol$"
)
_URL_HEADER = re.compile(rb"(^|[-_])(location|referr?er|ur[il]|path|link|destination|(async)?operation)$")
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
    return _without(upstream, _not_sent_to_client(upstream, status))


def _not_sent_to_client(upstream: Headers, status: int) -> frozenset[bytes]:
    named = _named_by_connection(upstream)
    # The framing is not `Connection`'s to take away: the body is as long as it is.
    dropped = HOP_BY_HOP | (named - {b"content-length"}) if named else HOP_BY_HOP
    if status in (204, 304):
        dropped |= {b"content-length"}
    return dropped


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
    rules = SecretNames(more)
    return [(name, rules.redacted(name, value)) for name, value in headers]


class SecretNames(dict[bytes, Callable[[bytes], bytes] | None]):
    """What makes the value of a field of this name fit to be written, for the names seen so far and any other; None
    where it is written as it is. Of a URL only its credentials are replaced.

    `more`: names in lower case that the configuration adds to the built-in rule.
    """

    def __init__(self, more: frozenset[bytes] = frozenset()) -> None:
        self._more = more

    def redacted(self, name: bytes, value: bytes) -> bytes:
        """The value of a field of this name, fit to be written."""
        rule = self[name]
        return value if rule is None else rule(value)

    def __missing__(self, name: bytes) -> Callable[[bytes], bytes] | None:
        lower = name.lower()
        rule: Callable[[bytes], bytes] | None = None
        if lower in self._more or _SECRET_HEADER.search(lower):
            rule = _redact_all
        elif _URL_HEADER.search(lower):
            rule = redact_url
        if len(self) < 1024:  # whoever makes names up shall not fill our memory
            self[name] = rule
        return rule


class ResponseFields:
    """Passes on the header fields of responses as `response_headers` does, and makes them fit to be written as
    `redact_headers` does, in one go.

    - `secret_names`: what is redacted.
    """

    def __init__(self, secret_names: SecretNames) -> None:
        self._secret_names = secret_names
        self._plain: dict[bytes, bool] = {}  # whether fields of a name are neither dropped nor redacted

    def lines(self, upstream: Headers, status: int) -> tuple[list[bytes], list[bytes]]:
        """The field lines for the client, and those to be recorded: not to be changed, for they may be one list."""
        plain = self._plain
        lines = []
        special = status in (204, 304)
        for name, value in upstream:
            lines.append(name + b": " + value)
            if not plain.get(name, False) and not self._is_plain(name):
                special = True
        if not special:
            return lines, lines
        dropped, rules = _not_sent_to_client(upstream, status), self._secret_names
        passed_on = [line for line, (name, _) in zip(lines, upstream, strict=True) if name.lower() not in dropped]
        recorded = [
            line if (rule := rules[name]) is None else name + b": " + rule(value)
            for line, (name, value) in zip(lines, upstream, strict=True)
        ]
        return passed_on, recorded

    def _is_plain(self, name: bytes) -> bool:
        known = self._plain.get(name)
        if known is None:
            known = name.lower() not in HOP_BY_HOP and self._secret_names[name] is None
            if len(self._plain) < 1024:
                self._plain[name] = known
        return known


def _redact_all(value: bytes) -> bytes:
    return REDACTED


def redact_target(target: bytes) -> bytes:
    """A request's target (RFC 9112 section 3.2) with the credentials in it replaced."""
    if not target.startswith(b"/"):
        return redact_url(target)
    path, question, query = target.partition(b"?")
    return path + question + redact_query(query) if query else target


def redact_url(url: bytes) -> bytes:
    """The URL, or a field's value that holds some, with names and passwords (RFC 3986 section 3.2.1) and the values of
    key-like parameters of query and fragment replaced."""
    if b"@" in url:
        url = re.sub(rb"(^|[:<])(//)[^/?#\s<>]*@", rb"\1\2" + REDACTED + b"@", url)
    if b"=" not in url:
        return url
    return re.sub(rb"(?<=[?#&;])([^?#&;=<>]+)=([^&;#<>]*)", _redact_parameter, url)


def is_secret_parameter(name: bytes) -> bool:
    """Whether a parameter of a query or a form is named like a credential; `name` is percent-decoded."""
    return _SECRET_PARAMETER.search(name.lower()) is not None


def redact_query(query: bytes) -> bytes:
    """The query string with the values of key-like parameters (`key`, `api_key`, `access_token` …) replaced."""
    if b"=" not in query:
        return query
    # Only from where a name begins: tried from each of its bytes, a long one would take seconds.
    return re.sub(rb"(?<![^&;=])([^&;=]+)=([^&;]*)", _redact_parameter, query)


def _redact_parameter(match: re.Match[bytes]) -> bytes:
    return match[1] + b"=" + REDACTED if is_secret_parameter(unquote_to_bytes(match[1])) else match[0]
