"""The client's own id of a session, from where the known clients put it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy.reconstruct.json_values import Notes, object_or_empty
from llmproxy.reconstruct.text import parse_object

# Claude Code before it wrote JSON there: user_<hash>_account_<id>_session_<uuid>.
_CLAUDE_CODE_USER = re.compile(r"_session_([0-9A-Za-z-]+)$")

# Most specific first. Not here are `user`, `prompt_cache_key` and `safety_identifier`, which conversations share.
_HEADERS = (
    "x-claude-code-session-id",  # Claude Code
    "session_id",  # Codex
    "session-id",
    "conversation_id",
    "x-openwebui-chat-id",  # Open WebUI
    "x-session-affinity",  # OpenCode, pi
    "x-session-id",
    "x-opencode-session",
    "x-interaction-id",  # GitHub Copilot
    "x-client-session-id",
    "x-kilocode-taskid",  # Kilo Code
    "x-mux-workspace-id",  # Mux
    "x-litellm-session-id",
    "helicone-session-id",
)
_FIELDS = ("session_id", "litellm_session_id")  # OpenRouter, LiteLLM


def session_of(headers: Sequence[tuple[bytes, bytes]], body: Mapping[str, Any], notes: Notes) -> str | None:
    """The first session id that a request carries, in its body's metadata, its headers or its body's own fields."""
    metadata = object_or_empty(body.get("metadata"))
    claude_code = _claude_code(metadata.get("user_id"), notes)
    if claude_code is not None:
        return claude_code
    sent = {name.lower().decode("latin-1"): value.decode("latin-1").strip() for name, value in reversed(headers)}
    for header in _HEADERS:
        if sent.get(header):
            return sent[header]
    for fields in (body, metadata, object_or_empty(body.get("client_metadata"))):
        for field in _FIELDS:
            value = fields.get(field)
            if isinstance(value, str) and value:
                return value
    return None


def _claude_code(user_id: Any, notes: Notes) -> str | None:
    if not isinstance(user_id, str):
        return None
    session = object_or_empty(parse_object(user_id, notes)).get("session_id")
    if isinstance(session, str) and session:
        return session
    legacy = _CLAUDE_CODE_USER.search(user_id)
    return legacy[1] if legacy else None
