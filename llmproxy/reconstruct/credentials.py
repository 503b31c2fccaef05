"""Credentials inside a body: tools and data sources of others are given them, and they are never written."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from functools import lru_cache
from operator import is_not
from typing import Any

from llmproxy.headers import redact_url

REDACTED = "REDACTED"

# Names without case, `_` and `-`. A `key` alone says nothing: schemas, arguments and caches have such.
_ENDINGS = (
    "apikey", "accesskey", "accountkey", "encryptionkey", "privatekey", "secretkey", "subscriptionkey", "secret",
    "password", "passwd", "cookie", "authorization", "authorizationtoken", "accesstoken", "apitoken", "authtoken",
    "azureadtoken", "bearertoken", "idtoken", "refreshtoken", "sessiontoken", "connectionstring", "clientassertion",
    "credentials",
)  # fmt: skip
_AUTHENTICATION = frozenset({"auth", "authentication", "credential", "credentials"})
_DATA_SOURCES = "datasources"
_HEADERS = frozenset({"headers", "extraheaders", "httpheaders"})
# What a model said or is to say, where such a name is a word like any other: `token` in the probabilities, the
# arguments of a call, and schemas.
_SPOKEN = frozenset(
    {"arguments", "logprobs", "toplogprobs", "completionprobabilities", "topprobs", "inputschema", "schema"}
)
_GRANTS = frozenset({"assertion", "code", "codeverifier", "devicecode"})  # OAuth (RFC 6749, 7521, 7636, 8628)
_SCALARS = (str, int, float, type(None))

Credential = tuple[str, str]
"""A field's name and its value."""


class _Place(Enum):
    """What the object is that a field stands in."""

    ANY = auto()
    DATA_SOURCES = auto()  # Azure: a `key` is one (older versions have it beside the index's name)
    AUTHENTICATION = auto()  # all but its `type` is secret
    HEADERS = auto()


def without_credentials(value: Any) -> Any:
    """JSON with the text of what is named as a credential replaced, and all headers of a tool server.

    Only text: a schema may have a property `password`, whose value is an object. What holds none is returned as it is,
    not copied: it may be large.
    """
    return _without(value, _Place.ANY, set())


def credentials_in(value: Any) -> set[Credential]:
    """What `without_credentials` replaces."""
    found: set[Credential] = set()
    _without(value, _Place.ANY, found)
    return found


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a text of this name is a credential, wherever it stands."""
    plain = _plain(name)
    return plain == "token" or plain.endswith(_ENDINGS)


def is_group_of_secrets(name: str) -> bool:
    """Whether all texts in an object of this name are taken for credentials."""
    return _plain(name) in _AUTHENTICATION | _HEADERS


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _without(value: Any, place: _Place, found: set[Credential]) -> Any:
    if isinstance(value, list):
        if {dict, list}.isdisjoint(map(type, value)):  # the numbers of an embedding are many
            return value
        items = [_without(item, place, found) for item in value]
        return items if any(map(is_not, items, value)) else value
    if not isinstance(value, Mapping) or "properties" in value or value.get("type") == "object":
        return value
    fields: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, str):
            fields[name] = _text(name, item, value, place)
            if fields[name] is not item:
                found.add((name, item))
        elif isinstance(item, _SCALARS) or _is_spoken(_plain(name), value):
            fields[name] = item
        else:
            fields[name] = _without(item, _place_in(_plain(name), item, place), found)
    return fields if any(map(is_not, fields.values(), value.values())) else value


def _text(name: str, text: str, around: Mapping[str, Any], place: _Place) -> str:
    if not text or text == REDACTED:
        return text
    plain = _plain(name)
    if is_secret(name) or place is _Place.HEADERS or (place is _Place.AUTHENTICATION and plain != "type"):
        return REDACTED
    if (place is _Place.DATA_SOURCES and plain == "key") or (plain == "value" and _is_new_key(around)):
        return REDACTED
    if plain in _GRANTS and "grant_type" in around:
        return REDACTED
    if plain == "serverurl" or (plain == "url" and around.get("type") == "url" and "name" in around):
        url = redact_url(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        return url if url != text else text
    return text


def _is_new_key(around: Mapping[str, Any]) -> bool:
    """Whether it is a key that was just made (OpenAI: client secrets, admin and project keys)."""
    return "expires_at" in around or str(around.get("object")).endswith("api_key")


def _is_spoken(plain: str, around: Mapping[str, Any]) -> bool:
    return plain in _SPOKEN or (plain == "input" and str(around.get("type")).endswith("tool_use"))


def _place_in(plain: str, item: Any, place: _Place) -> _Place:
    if plain in _HEADERS and isinstance(item, Mapping):
        return _Place.HEADERS
    if plain in _AUTHENTICATION:
        return _Place.AUTHENTICATION
    if plain == _DATA_SOURCES and place is _Place.ANY:
        return _Place.DATA_SOURCES
    return place
