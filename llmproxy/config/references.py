"""`${NAME}` and `${llm:NAME}` in the settings' values."""

import json
import re
from collections.abc import Mapping
from typing import Any

from llmproxy.config.errors import ConfigError
from llmproxy.config.settings import llm_user_dir

_REFERENCE = re.compile(r"\$(\$)?\{([^{}]*)\}")


def resolve(value: Any, environ: Mapping[str, str], place: str) -> Any:
    """A value with the references in it, at any depth, replaced by what they name.

    - `place`: where the settings stand, for the message. Raises `ConfigError` where something named is missing.
    """
    return _resolve(value, "", _References(environ, place))


class _References:
    """Resolves `${NAME}` (an environment variable) and `${llm:NAME}` (a key kept by `llm keys`)."""

    def __init__(self, environ: Mapping[str, str], place: str) -> None:
        self._environ = environ
        self._place = place

    def substitute(self, text: str, key: str) -> str:
        def value(match: re.Match[str]) -> str:
            if match[1]:
                return "${" + match[2] + "}"
            return self._value(match[2], key)

        return _REFERENCE.sub(value, text)

    def _value(self, name: str, key: str) -> str:
        if name.startswith("llm:"):
            alias = name.removeprefix("llm:")
            found = _llm_keys().get(alias)
            mend = f"run: llm keys set {alias}"
        else:
            found = self._environ.get(name)
            mend = f"set it, or write $${{{name}}} where the text itself is meant"
        if not found:
            what = f"`llm keys` has no {alias!r}" if name.startswith("llm:") else f"the variable {name} is not set"
            raise ConfigError(f"{self._place}: {key}: {what}; {mend}")
        return found


def _llm_keys() -> dict[str, str]:
    path = llm_user_dir() / "keys.json"
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from None
    return keys if isinstance(keys, dict) else {}


def _resolve(value: Any, key: str, references: _References) -> Any:
    if isinstance(value, str):
        return references.substitute(value, key)
    if isinstance(value, dict):
        # YAML reads an unquoted 1 or yes as a key that is no text; pydantic then names it by its place.
        return {str(k): _resolve(v, f"{key}.{k}" if key else str(k), references) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(item, f"{key}[{i}]", references) for i, item in enumerate(value)]
    return value
