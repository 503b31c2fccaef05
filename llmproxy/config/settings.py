"""The settings and their defaults: frozen models, each value checked by itself."""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import click
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from llmproxy.config.errors import no_such

ENV_PREFIX = "LLMPROXY_"
# The three are the first segments of our own paths and of the default upstream's.
RESERVED_NAMES = frozenset(("v1", "api", "_llmproxy"))

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2


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
    def logs_command(self) -> str:
        """The command that reads that file."""
        return "llm logs" if self.database is None else f"llm logs -d {shlex.quote(str(self.database))}"

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
            raise ValueError(f"default_upstream: {no_such(self.default_upstream, self.upstreams)}")
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
