"""The guard: who may call. It decides on the request's head alone, before anything else happens.

A local proxy that adds an API key is a gift to any web page that can make a browser post to it: a page's simple
requests are sent without asking (https://fetch.spec.whatwg.org/#simple-method), and DNS rebinding lets a page speak to
127.0.0.1 under its own name. So `Origin`, `Sec-Fetch-Site` and `Host` are checked first.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from llmproxy.config import SecurityConfig
from llmproxy.errors import ProxyError
from llmproxy.headers import Headers, get
from llmproxy.loopback import is_loopback

# RFC 9110 section 7.2, RFC 3986 section 3.2.2: an IPv6 literal in brackets or a name, and a port. What is neither is no
# name of ours, whatever it begins with.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/]*))(?::[0-9]*)?")
_KEY_HEADERS = (b"x-llmproxy-key", b"authorization", b"x-api-key")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who was let in: the name of the client, and the fields that carried its key, which are never sent on (nor are
    others that are added here, see `ask`)."""

    client: str | None = None
    key_headers: frozenset[bytes] = frozenset()


_ANYONE = Caller()


class Guard:
    """Lets a request in, or says why not.

    - `loopback`: llmproxy is bound to a loopback address, so that `Host` must be a loopback name or allowed by name.
    """

    def __init__(self, security: SecurityConfig, *, loopback: bool) -> None:
        self._hosts = frozenset(host.lower() for host in security.allowed_hosts)
        self._check_host = loopback or bool(self._hosts)
        self._origins = frozenset(security.allowed_origins)
        self._is_ours = lru_cache(maxsize=256)(self._names_us)  # nearly all requests come by the same name
        self._clients: Mapping[str, bytes] = {name: key.encode() for name, key in security.clients.items()}

    def admit(self, headers: Headers, *, open_to_all: bool = False) -> Caller:
        """Who calls, by the fields of the request. Raises `ProxyError`.

        `open_to_all`: the path needs no client's key (health).
        """
        fields = dict(headers)
        origin, host = fields.get(b"origin"), fields.get(b"host")
        # The origin comes first: a page's request is foreign whatever name it used for us.
        if origin is not None:
            self._check_origin(origin, host)
        elif fields.get(b"sec-fetch-site") == b"cross-site":
            raise ProxyError("origin_refused", "a web page of another site sent this request (Sec-Fetch-Site)")
        if self._check_host:
            self._admit_host(host)
        if not self._clients or open_to_all:
            return _ANYONE
        return self._client(headers)

    def _check_origin(self, origin: bytes, host: bytes | None) -> None:
        text = origin.decode("latin-1").lower()
        if text in self._origins:
            return
        own = host is not None and text in (
            f"http://{host.decode('latin-1').lower()}",
            f"https://{host.decode('latin-1').lower()}",
        )
        # Our own origin is a loopback name, or one that the configuration calls ours: a name that a page made to point
        # at us (DNS rebinding) would otherwise be both Origin and Host.
        if own and host is not None and self._is_ours(host):
            return
        raise ProxyError(
            "origin_refused",
            f"a web page at {text[:200]!r} sent this request; to let it in, add its origin to security.allowed_origins",
        )

    def _admit_host(self, host: bytes | None) -> None:
        if host is None or not self._is_ours(host):
            name = (host or b"").decode("latin-1")[:200]
            raise ProxyError(
                "host_refused",
                f"Host is {name!r}, which is not a name of this machine's loopback; to be reached by it, add it to"
                " security.allowed_hosts",
            )

    def _names_us(self, host: bytes) -> bool:
        name = _without_port(host.decode("latin-1").lower())
        return is_loopback(name) or name in self._hosts or host.decode("latin-1").lower() in self._hosts

    def _client(self, headers: Headers) -> Caller:
        sent = {header: key for header in _KEY_HEADERS if (key := _key_in(headers, header)) is not None}
        for key in sent.values():
            name = self._name_of(key)
            if name is not None:
                return Caller(name, frozenset(header for header, other in sent.items() if other == key))
        raise ProxyError(
            "client_key_required",
            "this llmproxy asks for a key of its own: send it as 'Authorization: Bearer …' or 'x-api-key', or as"
            " 'x-llmproxy-key' to leave those two to the provider",
        )

    def _name_of(self, key: bytes) -> str | None:
        # Every key is compared, and each in constant time: how long it takes tells nothing about them.
        found = None
        for name, expected in self._clients.items():
            if hmac.compare_digest(key, expected):
                found = name
        return found


def _without_port(host: str) -> str:
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]) if match else ""


def _key_in(headers: Headers, header: bytes) -> bytes | None:
    value = get(headers, header)
    if value is None or header != b"authorization":
        return value
    scheme, _, credentials = value.partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else None
