"""Which models of the upstreams `llm` is given, and under which names: `llm -m UPSTREAM/MODEL` and `llm -c`."""

import functools
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llm import get_default_model, get_key, user_dir
from llm.models import ModelWithAliases

from llmproxy.store.captured_models import CapturedModel, captured_models, model_of_conversation

if TYPE_CHECKING:
    from llmproxy.config import Config, UpstreamConfig


def register_upstreams(register: Callable[..., None], model_aliases: list[ModelWithAliases]) -> None:
    """Register each model that can be called, and leave every name in `model_aliases` to whom it belongs.

    `register` and `model_aliases`: as `llm` gives them to `register_models`.
    """
    asked = _asked()
    if _is_idle(asked):
        return
    config = _configuration(os.environ.get("LLMPROXY_CONFIG"))
    if config is None:
        return
    usable = {name: upstream for name, upstream in config.upstreams.items() if _can_be_called(name, upstream)}
    taken = {name for known in model_aliases for name in (_model_id(known), *known.aliases)}
    _explain(config, usable, asked, taken)
    if not usable:
        return
    seen = captured_models(config.capture.database_path)
    registration = _Registration(usable, seen, taken)
    if asked.conversation is not None:
        registration.add_captured(asked.conversation)
    for name in asked.names:
        registration.add(*_split(name))
    for upstream, settings in usable.items():
        for name in settings.models:
            registration.add(upstream, name)
    for captured in seen:
        registration.add(captured.upstream, captured.name)
    for captured in seen:
        registration.add_captured(captured)
    if not registration.models:
        return
    from llmproxy.upstream_models import model_classes

    for model in registration.models.values():
        sync, async_ = (of(model.upstream, usable[model.upstream], model.name) for of in model_classes(model.api))
        register(sync, async_, aliases=tuple(model.aliases))


def _is_idle(asked: "_Asked") -> bool:
    """Whether llmproxy is installed and not used: nothing is configured, captured or asked for.

    `llm` then starts without our configuration, whose reading takes 20 ms.
    """
    configured = any(name.upper().startswith("LLMPROXY_") for name in os.environ)
    named = any("/" in name for name in asked.names)
    return not configured and not named and not captured_models(user_dir() / "logs.db")


def _can_be_called(name: str, upstream: "UpstreamConfig") -> bool:
    from llmproxy.upstream_keys import key_alias, key_variable

    if upstream.base_url is None:
        return False
    alias = key_alias(name, upstream)
    return alias is None or bool(get_key(alias=alias, env=key_variable(name)))


def _model_id(known: ModelWithAliases) -> str:
    return str((known.model or known.async_model).model_id)


def _split(name: str) -> tuple[str, str]:
    upstream, _, model = name.partition("/")
    return upstream, model


@functools.cache
def _configuration(path: str | None) -> "Config | None":
    """The configuration as `llmproxy serve` reads it; None, and a line for the user, where it cannot be used.

    `llm` asks for its models several times in one command: it is read once.
    """
    from llmproxy.config import ConfigError, load

    try:
        return load(Path(path) if path else None)
    except ConfigError as exc:
        _tell(f"{exc}\n(until this is mended, `llm` has no models of llmproxy's upstreams)")
        return None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the `llm` command that runs has asked for.

    `llm` finds a model by its registered name alone, while an upstream has more of them than anybody could list.

    - `named`: the model that the command names.
    - `remembered`: models that `llm`'s own settings name: its default, and what aliases stand for.
    - `conversation`: the model of the conversation that is to be continued.
    """

    named: tuple[str, ...] = ()
    remembered: tuple[str, ...] = ()
    conversation: CapturedModel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be UPSTREAM/MODEL."""
        # What `llm` logged by itself came through no upstream and is stored as UPSTREAM/MODEL.
        return (*self.named, *self.remembered, *([self.conversation.name] if self.conversation else []))


def _asked() -> _Asked:
    context = click.get_current_context(silent=True)
    params: dict[str, Any] = context.params if context is not None else {}
    named = [params.get("model_id"), params.get("model"), *(params.get("model_ids") or ())]
    conversation = None
    if "_continue" in params and (params["_continue"] or params.get("conversation_id")):
        database = params.get("database")
        conversation = model_of_conversation(
            Path(database) if database else user_dir() / "logs.db", params.get("conversation_id")
        )
    return _Asked(
        tuple(name for name in named if isinstance(name, str)), (get_default_model(), *_alias_targets()), conversation
    )


def _explain(config: "Config", usable: Collection[str], asked: _Asked, taken: Collection[str]) -> None:
    """Say why a model that the command asks for will be unknown: `llm` only says that it is."""
    for name in asked.named:
        upstream = _split(name)[0]
        if name not in taken and upstream in config.upstreams and upstream not in usable:
            _tell(f"{name}: {_why_not(upstream, config)}")
    captured = asked.conversation
    if captured is not None and captured.upstream and captured.name not in taken and captured.upstream not in usable:
        _tell(f"the conversation's {captured.name}: {_why_not(captured.upstream, config)}")


def _why_not(upstream: str, config: "Config") -> str:
    from llmproxy.upstream_keys import key_variable

    if upstream not in config.upstreams:
        return (
            f"the configuration has no upstream {upstream!r}, which it came through; name the file that has it:"
            " export LLMPROXY_CONFIG=…/config.yaml"
        )
    if config.upstreams[upstream].base_url is None:
        return f"the upstream {upstream!r} is an app, which only llmproxy runs; choose another model with -m"
    return (
        f"the upstream {upstream!r} has no key: give it default_headers: {{Authorization: …}}, or run"
        f" `llm keys set {upstream}`, or set {key_variable(upstream)}"
    )


@functools.cache
def _tell(text: str) -> None:
    """One message to the user, once in a process."""
    click.echo(f"llmproxy: {text}", err=True)


def _alias_targets() -> list[str]:
    try:
        aliases = json.loads((user_dir() / "aliases.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # `llm` reads it before us, and says so
        return []
    return [target for target in aliases.values() if isinstance(target, str)] if isinstance(aliases, dict) else []


@dataclass(slots=True)
class _Model:
    """A model to register as UPSTREAM/NAME."""

    upstream: str
    name: str
    api: str | None
    aliases: list[str] = field(default_factory=list)


class _Registration:
    """Collects models, each once, and leaves every name that is taken to whom it belongs."""

    def __init__(self, usable: Collection[str], seen: Sequence[CapturedModel], taken: set[str]) -> None:
        self.models: dict[str, _Model] = {}
        self._usable = usable
        self._apis = {(model.upstream, model.name): model.api for model in reversed(seen)}
        self._taken = taken

    def add(self, upstream: str | None, name: str) -> _Model | None:
        """The model UPSTREAM/NAME; None where its upstream cannot be called or another plug-in has that name."""
        if upstream is None or upstream not in self._usable or not name:
            return None
        model_id = f"{upstream}/{name}"
        if model_id not in self.models:
            if model_id in self._taken:
                return None
            self._taken.add(model_id)
            self.models[model_id] = _Model(upstream, name, self._apis.get((upstream, name)))
        return self.models[model_id]

    def add_captured(self, captured: CapturedModel) -> None:
        """The model of a captured turn, also by its name as it is stored, which is what `llm -c` looks for."""
        model = self.add(captured.upstream, captured.name)
        if model is not None and captured.name not in self._taken:
            self._taken.add(captured.name)
            model.aliases.append(captured.name)
