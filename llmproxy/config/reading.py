"""Reading the configuration: the YAML file, `.env` beside it and the environment over it, flags over both."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from llmproxy.config.errors import ConfigError, no_such
from llmproxy.config.mistakes import explain
from llmproxy.config.references import resolve
from llmproxy.config.settings import ENV_PREFIX, Config


def load(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The configuration from a YAML file (or none), the environment over it and `flags` over both.

    - `path`: the file; `.env` beside it is read, the real environment wins over it.
    - `flags`: nested as the file is, without what was not given.

    Raises `ConfigError`.
    """
    from_file: dict[str, Any] = {}
    environ: dict[str, str] = dict(os.environ)
    place = "the configuration"
    if path is not None:
        from_file = _read_yaml(path)
        environ = _read_dotenv(path.with_name(".env")) | environ
        place = str(path)
    _refuse_unknown_variables(environ)
    try:
        from_environment = _Environment(environ)()
    except SettingsError as exc:
        raise ConfigError(f"the environment: {_variable_of(exc)}: lists and mappings are written as JSON") from exc
    flags = dict(flags or {})
    merged = _merge(_merge(from_file, from_environment), flags)
    resolved = resolve(merged, environ, place)
    try:
        return Config(**resolved)
    except ValidationError as exc:
        places = (("the command line", flags), ("the environment", from_environment))
        raise ConfigError(explain(exc, places, place)) from None


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of the environment, over a mapping that `.env` was merged into."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Config)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; copy config.example.yaml to start one") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 (byte {exc.start}); save it as UTF-8") from None
    except ValueError as exc:
        raise ConfigError(f"{path}: a date or number in it does not exist ({exc}); put it in quotes") from None
    except (ComposerError, ConstructorError) as exc:
        # Its own words show the value, which may be a key.
        where = f"{exc.problem_mark.line + 1}:{exc.problem_mark.column + 1}" if exc.problem_mark else "?"
        raise ConfigError(f"{path}:{where}: a value that begins with '*', '!', '[' or '{{' belongs in quotes") from None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not YAML: {getattr(exc, 'problem', None) or exc}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}; it must be keys and values, such as port: 11435")
    return content


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path).items() if value is not None}
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 (byte {exc.start}); save it as UTF-8") from None


def _variable_of(exc: SettingsError) -> str:
    field = re.search(r'field "(\w+)"', str(exc))
    return ENV_PREFIX + (field[1].upper() if field else "")


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable that looks like a mistyped key of ours. Others may have their own uses for the prefix."""
    known = {*Config.model_fields, "config"}  # LLMPROXY_CONFIG names the file
    for name in environ:
        if name.upper().startswith(ENV_PREFIX):
            key = name[len(ENV_PREFIX) :].lower().split("__")[0]
            if key not in known and difflib.get_close_matches(key, known, n=1):
                raise ConfigError(f"the environment: {name}: {no_such(key, known)}")
