"""The configuration: read once from flags, environment and YAML, validated, frozen.

`load` is the door. What it returns is a value; nothing in it is looked up again while the proxy runs.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import click
import yaml
from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

ENV_PREFIX = "LLMPROXY_"
# The three are the first segments of our own paths and of the default upstream's.
RESERVED_NAMES = frozenset(("v1", "api", "_llmproxy"))

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_REFERENCE = re.compile(r"\$(\$)?\{([^{}]*)\}")


class ConfigError(Exception):
    """The configuration cannot be used. The message names the place and the mend, in one or two lines."""


def llm_user_dir() -> Path:
    """The folder where `llm` keeps its keys and its logs database.

    The rule is `llm.user_dir()`'s; it stands here so that the serving process need not import `llm` (0.3 s, 40 MiB).
    A test holds the two together.
    """
    return Path(os.environ.get("LLM_USER_PATH") or click.get_app_dir("io.datasette.llm"))


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _http_url(url: str) -> str:
    if re.search(r"[\x00-\x20\x7f]", url):  # urlsplit would leave some of them out without a word
        raise ValueError("the URL holds a space or a line break")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give a URL such as https://api.openai.com/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name or password in the URL is not sent; use default_headers: {Authorization: Basic …}")
    if parts.query or parts.fragment:
        raise ValueError("leave the query and the fragment out of the base URL")
    try:
        _ = parts.port
    except ValueError as exc:
        raise ValueError("the port is a number from 1 to 65535") from exc
    return url.rstrip("/")


class UpstreamConfig(_Frozen):
    """Where exchanges are sent: an HTTP provider (`base_url`) or an in-process ASGI app (`app`)."""

    base_url: Annotated[str, AfterValidator(_http_url)] | None = None
    app: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    default_headers: dict[str, str | None] = Field(default_factory=dict)
    connect_timeout: float | None = Field(default=10, gt=0)
    read_timeout: float | None = Field(default=600, gt=0)

    @field_validator("default_headers")
    @classmethod
    def _header_fields(cls, headers: dict[str, str | None]) -> dict[str, str | None]:
        # Names have no case (RFC 9110 section 5.1), and pydantic-settings writes those of the environment small: the
        # environment comes after the file and wins, in place of being sent beside it.
        last = {name.lower(): name for name in headers}
        headers = {name: value for name, value in headers.items() if last[name.lower()] == name}
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name")
            if name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
                raise ValueError(f"{name} belongs to the connection and cannot be set")
            # RFC 9110 section 5.5; the value itself may be a key and is not shown.
            if value is not None and (re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value) or not value.isascii()):
                raise ValueError(f"the value of {name} holds a line break or another character that no header may")
        return headers

    @model_validator(mode="after")
    def _one_kind(self) -> "UpstreamConfig":
        if (self.base_url is None) == (self.app is None):
            raise ValueError("give either base_url (an HTTP provider) or app (an ASGI app's import string)")
        if self.app is not None and ":" not in self.app:
            raise ValueError('app is "package.module:attribute"')
        if self.options and self.app is None:
            raise ValueError("options go with app")
        if self.models and self.base_url is None:
            raise ValueError("models go with base_url: `llm` asks a provider, not an app")
        return self


class CaptureConfig(_Frozen):
    """What is recorded, and where."""

    enabled: bool | None = None
    database: Path | None = None
    spool: Path | None = None
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=0)
    fsync: bool = False
    settle: float = Field(default=0.3, ge=0, le=60)
    on_spool_error: Literal["forward", "refuse"] = "forward"
    raw: Literal["failed", "all", "none"] = "failed"
    redact_headers: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    @field_validator("database", "spool")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        try:
            return path.expanduser().absolute() if path is not None else None
        except RuntimeError as exc:
            raise ValueError("there is no such user; write the path out") from exc

    @field_validator("hooks")
    @classmethod
    def _import_strings(cls, hooks: tuple[str, ...]) -> tuple[str, ...]:
        for hook in hooks:
            if ":" not in hook:
                raise ValueError(f'{hook!r} is not "package.module:callable"')
        return hooks

    @property
    def database_path(self) -> Path:
        """The SQLite file that turns are written to."""
        return self.database or llm_user_dir() / "logs.db"

    @property
    def spool_path(self) -> Path:
        """The folder in which exchanges wait for the ingester."""
        return self.spool or self.database_path.parent / "llmproxy" / "spool"

    @property
    def active(self) -> bool:
        """Whether to record: as configured, and where nothing is, unless `llm logs off` was said."""
        return self.enabled if self.enabled is not None else not self.switched_off_by_llm

    @property
    def switched_off_by_llm(self) -> bool:
        """Whether `llm logs off` decides, and says no."""
        return self.enabled is None and (llm_user_dir() / "logs-off").exists()


class SecurityConfig(_Frozen):
    """Who may call."""

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    clients: dict[str, str] = Field(default_factory=dict)
    insecure: bool = False

    @field_validator("clients")
    @classmethod
    def _usable_keys(cls, clients: dict[str, str]) -> dict[str, str]:
        for name, key in clients.items():
            if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"the key of {name} needs at least 8 printable ASCII characters without spaces")
        if len(set(clients.values())) < len(clients):
            raise ValueError("two clients have the same key")
        return clients

    @field_validator("allowed_origins")
    @classmethod
    def _whole_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if not parts.scheme or not parts.netloc or parts.path:
                raise ValueError(f"{origin!r} is not an origin such as https://app.example.com (no path)")
        return tuple(origin.lower() for origin in origins)


class PriceConfig(_Frozen):
    """Dollars for a million tokens. `cached`: of input that the provider had in its cache; null: as `input`."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class AskConfig(_Frozen):
    """What `POST /v1/ask` makes of a question. Without a model there is no such path."""

    model: str | None = Field(default=None, min_length=1)
    system: str | None = None
    send_ids: tuple[Literal["user", "metadata"], ...] = ()


def _default_upstreams() -> dict[str, UpstreamConfig]:
    return {"openai": UpstreamConfig(base_url="https://api.openai.com/v1")}


class Config(BaseSettings):
    """All of the configuration. `config.example.yaml` shows every key with its default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=False
    )

    host: str = "127.0.0.1"
    port: int = Field(default=11435, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=256)
    shutdown_grace: float = Field(default=10, ge=0)
    default_upstream: str | None = None
    upstreams: dict[str, UpstreamConfig] = Field(default_factory=_default_upstreams, min_length=1)
    capture: CaptureConfig = CaptureConfig()
    security: SecurityConfig = SecurityConfig()
    # By model, or by upstream/model, which wins.
    prices: dict[str, PriceConfig] = Field(default_factory=dict)
    ask: AskConfig = AskConfig()

    @field_validator("upstreams")
    @classmethod
    def _usable_names(cls, upstreams: dict[str, UpstreamConfig]) -> dict[str, UpstreamConfig]:
        for name in upstreams:
            if name in RESERVED_NAMES:
                raise ValueError(f"the name {name!r} is taken by llmproxy's own paths; choose another")
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"the name {name!r} becomes part of a path: use letters, digits, '.', '_' and '-'")
        return upstreams

    @model_validator(mode="after")
    def _default_exists(self) -> "Config":
        if self.default_upstream is not None and self.default_upstream not in self.upstreams:
            raise ValueError(f"default_upstream: {_unknown(self.default_upstream, self.upstreams)}")
        return self

    @property
    def default_upstream_name(self) -> str:
        """The upstream of `/v1/…`: the one configured, else the first."""
        return self.default_upstream or next(iter(self.upstreams))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged: it reads the environment itself, so that mistakes are told apart by their place."""
        return (init_settings,)


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of the environment, over a mapping that `.env` was merged into."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Config)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


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
    resolved = _resolve(merged, "", _References(environ, place))
    try:
        return Config(**resolved)
    except ValidationError as exc:
        places = (("the command line", flags), ("the environment", from_environment))
        raise ConfigError(_explain(exc, places, place)) from None


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


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    """Refuse a variable that looks like a mistyped key of ours. Others may have their own uses for the prefix."""
    known = {*Config.model_fields, "config"}  # LLMPROXY_CONFIG names the file
    for name in environ:
        if name.upper().startswith(ENV_PREFIX):
            key = name[len(ENV_PREFIX) :].lower().split("__")[0]
            if key not in known and difflib.get_close_matches(key, known, n=1):
                raise ConfigError(f"the environment: {name}: {_unknown(key, known)}")


def _unknown(name: str, known: Any) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"there is no {name!r}; " + (f"did you mean {near[0]!r}?" if near else "there is: " + ", ".join(names))


def _explain(error: ValidationError, places: Sequence[tuple[str, Mapping[str, Any]]], file: str) -> str:
    """The first mistakes, one line each: place, key, what is wrong, the mend. No value is shown: it may be a key.

    `places`: what wins over the file, the first most, with its settings.
    """
    lines = []
    for mistake in error.errors()[:3]:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"]).lstrip(".")
        if mistake["type"] == "extra_forbidden":
            text = _unknown(str(mistake["loc"][-1]), _fields_at(mistake["loc"][:-1]))
        else:
            text = mistake["msg"].removeprefix("Value error, ")
        place = next((name for name, settings in places if _holds(settings, mistake["loc"])), file)
        lines.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")
    return "\n".join(lines)


def _holds(settings: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(settings, Mapping):
            break  # a list or a plain value is given whole
        if part not in settings:
            return False
        settings = settings[part]
    return bool(location)


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "upstreams": UpstreamConfig,
        "capture": CaptureConfig,
        "security": SecurityConfig,
        "prices": PriceConfig,
        "ask": AskConfig,
    }
    model = models[str(location[0])] if location else Config
    return list(model.model_fields)
