"""What is benchmarked, as the user says it: `--target UPSTREAM/MODEL,option=value`, or a YAML file of targets."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmproxy.bench.requests import PATHS
from llmproxy.bench.results import Target
from llmproxy.config import Config, UpstreamConfig

AS_RECORDED = "as recorded"
# Upstreams that need no configuration: the mock, and any model that `llm` knows.
_BUILT_IN = {"mock": "llmproxy.inprocess.mock:create_app", "llm": "llmproxy.inprocess.llm_models:create_app"}


class WrongTarget(ValueError):
    """A target that cannot be; one line for the user with the mend."""


class _TargetInFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    name: str | None = None
    api: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def baseline() -> Target:
    """What was answered when it was captured."""
    return Target(AS_RECORDED, upstream="", model="", as_recorded=True)


def parse_targets(given: Iterable[str], config: Config) -> tuple[Target, ...]:
    """The targets of the command line. Raises `WrongTarget`."""
    targets = [target for text in given for target in _parse(text, config)]
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise WrongTarget(f"--target: {name} is given twice; tell them apart with an option or with name=…")
    return tuple(targets)


def _parse(text: str, config: Config) -> Sequence[Target]:
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        return [_make(each.target, each.name, each.api, each.options, config) for each in _read(path)]
    where, *pairs = _split(text)
    options: dict[str, Any] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals or not option.strip():
            raise WrongTarget(f"--target {text}: {pair!r} is no option; write UPSTREAM/MODEL,temperature=0,top_p=0.9")
        options[option.strip()] = _value(value)
    name, api = options.pop("name", None), options.pop("api", None)
    return [_make(where, name, api, options, config)]


def _split(text: str) -> list[str]:
    """At the commas that are not inside brackets or quotes: a value may be JSON."""
    pieces, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[{") - (character in "]}")
        if character == "," and depth == 0 and not quoted:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _value(text: str) -> Any:
    """As YAML reads it: a number, true, null, JSON, or else text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _make(where: str, name: Any, api: Any, options: Mapping[str, Any], config: Config) -> Target:
    upstream, slash, model = where.strip().partition("/")
    if not slash or not model:
        raise WrongTarget(f"--target {where}: write UPSTREAM/MODEL, such as {next(iter(config.upstreams))}/MODEL")
    if upstream not in config.upstreams and upstream not in _BUILT_IN:
        near = difflib.get_close_matches(upstream, config.upstreams, n=1)
        mend = f"did you mean {near[0]!r}?" if near else "the configuration has: " + ", ".join(config.upstreams)
        raise WrongTarget(f"--target {where}: there is no upstream {upstream!r}; {mend}")
    if api is not None and api not in PATHS:
        raise WrongTarget(f"--target {where}: api={api}: there is: {', '.join(PATHS)}")
    said = ",".join(
        f"{option}={_shown(value)}" for option, value in ({**({"api": api} if api else {}), **options}).items()
    )
    label = str(name) if name is not None else where.strip() + ("," + said if said else "")
    if label == AS_RECORDED:
        raise WrongTarget(f"--target: the name {AS_RECORDED!r} is the baseline's; choose another")
    return Target(label, upstream, model, dict(options), api=api)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _read(path: Path) -> list[_TargetInFile]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise WrongTarget(f"--target {path}: cannot be read: {exc}") from None
    except yaml.YAMLError as exc:
        raise WrongTarget(f"--target {path}: is not YAML: {exc}") from None
    if not isinstance(content, list) or not content:
        raise WrongTarget(f"--target {path}: holds no list; write  - target: UPSTREAM/MODEL  for each")
    try:
        return [_TargetInFile.model_validate({"target": each} if isinstance(each, str) else each) for each in content]
    except ValidationError as exc:
        mistake = exc.errors(include_url=False)[0]
        place = ".".join(map(str, mistake["loc"]))
        raise WrongTarget(f"--target {path}: {place}: {mistake['msg']}") from None


def with_built_in(config: Config, upstreams: Iterable[str]) -> Config:
    """The configuration with those of the built-in upstreams `mock` and `llm` that are wanted and not in it."""
    more = {
        name: UpstreamConfig(app=_BUILT_IN[name])
        for name in upstreams
        if name in _BUILT_IN and name not in config.upstreams
    }
    return config.model_copy(update={"upstreams": {**config.upstreams, **more}}) if more else config
