"""What a provider says went wrong, in any of the shapes that errors have: as a body, or inside a stream."""

from collections.abc import Mapping
from typing import Any

from llmproxy.reconstruct.json_values import dump


def is_error(said: Mapping[str, Any], answer: str) -> bool:
    """Whether an object tells of an error: as its `error`, or as one itself, as vLLM, Mistral and Cerebras send it.

    `answer` is the field that an answer has and a bare error has not.
    """
    is_bare = said.get("object") == "error" or "detail" in said or isinstance(said.get("message"), str)
    return bool(said.get("error")) or (answer not in said and is_bare)


def error_message(said: Mapping[str, Any]) -> str:
    """The message of an object with an `error` (an object or a text), with a list of `errors` (Cloudflare), or of one
    that is the error itself."""
    several = said.get("errors")
    error = said.get("error") or (several[0] if isinstance(several, list) and several else None) or said
    if isinstance(error, dict):
        for key in ("message", "detail", "code", "type"):
            if isinstance(error.get(key), str) and error[key]:
                return str(error[key])
    return error if isinstance(error, str) else dump(error)
