"""Credentials inside a request's body: remote tools are given them, and they are never written."""

from collections.abc import Mapping
from operator import is_not
from typing import Any

REDACTED = "REDACTED"

_NAMES = frozenset({"api_key", "apikey", "authorization", "authorization_token", "cookie", "x-api-key"})


def without_credentials(value: Any) -> Any:
    """JSON with the values of what is named as a credential replaced, and all headers of a tool server.

    What holds none is returned as it is, not copied: it may be large.
    """
    if isinstance(value, list):
        items = [without_credentials(item) for item in value]
        return items if any(map(is_not, items, value)) else value
    if not isinstance(value, Mapping):
        return value
    is_server = value.get("type") == "mcp" or "server_url" in value or "server_label" in value
    fields = {key: _kept(key, item, is_server) for key, item in value.items()}
    return fields if any(map(is_not, fields.values(), value.values())) else value


def _kept(key: str, value: Any, is_server: bool) -> Any:
    if key.lower() in _NAMES and isinstance(value, str):
        return REDACTED
    if is_server and key == "headers" and isinstance(value, Mapping):
        return dict.fromkeys(value, REDACTED)
    return without_credentials(value)
