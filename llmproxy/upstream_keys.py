"""Which key calls an upstream without the proxy: one of the configuration's headers, or one that `llm` keeps."""

import re
from urllib.parse import urlsplit

from llmproxy.config import UpstreamConfig
from llmproxy.loopback import is_loopback

CREDENTIAL_HEADERS = frozenset(("authorization", "x-api-key", "api-key", "x-goog-api-key"))


def key_alias(upstream: str, config: UpstreamConfig) -> str | None:
    """The key of `llm keys` that an upstream needs: its own name, or None where it needs none.

    It needs none where the configuration sets a header that carries credentials (`null` says that there are none to
    send), or where the upstream is on this machine.
    """
    if CREDENTIAL_HEADERS & {header.lower() for header in config.default_headers}:
        return None
    return None if is_loopback(urlsplit(config.base_url or "").hostname or "") else upstream


def key_variable(upstream: str) -> str:
    """The environment variable that serves where `llm keys` has no key: `DEEPSEEK_API_KEY` for deepseek."""
    return re.sub(r"[^A-Za-z0-9]", "_", upstream).upper() + "_API_KEY"
