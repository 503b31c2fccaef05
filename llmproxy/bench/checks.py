"""Checks of an answer that need no model: `contains:TEXT`, `regex:PATTERN`, `json`, `schema`, `tools` and others."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmproxy.bench.results import Check, Result

SIMILAR = 0.6
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n\s*```\s*\Z", re.S)


class WrongCheck(ValueError):
    """A check that cannot be; one line for the user with the mend."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is checked against: the recorded one, and the JSON schema that the prompt came with."""

    recorded: Result | None
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """A check as it was asked for: its kind and, where it takes one, its argument."""

    kind: str
    argument: str = ""

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def parse_check(text: str) -> CheckSpec:
    """The check that `KIND` or `KIND:ARGUMENT` means. Raises `WrongCheck`."""
    kind, _, argument = text.partition(":")
    kind = kind.strip()
    if kind not in CHECKS:
        raise WrongCheck(f"check {text!r}: there is: {', '.join(CHECKS)}")
    if kind in _NEED_ARGUMENT and not argument:
        raise WrongCheck(f"check {kind}: say what: {kind}:…")
    try:
        if kind == "regex":
            re.compile(argument)
        elif kind == "similarity" and not 0 <= float(argument or SIMILAR) <= 1:
            raise ValueError("a number from 0 to 1")
        elif kind == "schema" and argument:
            argument = json.dumps(_schema_in(Path(argument)))
    except (ValueError, re.error, OSError) as exc:
        raise WrongCheck(f"check {text}: {exc}") from None
    return CheckSpec(kind, argument)


def default_checks(asked: Asked) -> tuple[CheckSpec, ...]:
    """What is checked where nothing is said: what the prompt itself promises, and likeness to the recorded answer."""
    checks = []
    if asked.schema is not None:
        checks.append(CheckSpec("schema"))
    if asked.recorded is not None and asked.recorded.tool_calls:
        checks.append(CheckSpec("tools"))
    if asked.recorded is not None and asked.recorded.text:
        checks.append(CheckSpec("similarity"))
    return tuple(checks)


def run_checks(specs: Sequence[CheckSpec], result: Result, asked: Asked) -> tuple[Check, ...]:
    """The checks of one answer. Only what was answered is checked."""
    if result.status != "done":
        return ()
    return tuple(CHECKS[spec.kind](spec, result, asked) for spec in specs)


def _decided(spec: CheckSpec, passed: bool, detail: str = "") -> Check:
    name = "schema" if spec.kind == "schema" else spec.name
    return Check(name, passed, 1.0 if passed else 0.0, "" if passed else detail)


def _undecided(spec: CheckSpec, why: str) -> Check:
    return Check("schema" if spec.kind == "schema" else spec.name, None, None, why)


def _exact(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    """The same text as the argument or as the recorded one; space at the ends does not count."""
    if not spec.argument and asked.recorded is None:
        return _undecided(spec, "there is no recorded answer")
    wanted = spec.argument or (asked.recorded.text if asked.recorded else "")
    return _decided(spec, result.text.strip() == wanted.strip(), f"wanted {_short(wanted)}")


def _contains(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    return _decided(spec, spec.argument in result.text, f"{_short(spec.argument)} is not in it")


def _icontains(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    return _decided(spec, spec.argument.casefold() in result.text.casefold(), f"{_short(spec.argument)} is not in it")


def _regex(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    return _decided(spec, re.search(spec.argument, result.text) is not None, "nothing in it matches")


def _json(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    try:
        _parsed(result.text)
    except ValueError as exc:
        return _decided(spec, False, f"is not JSON: {exc}")
    return _decided(spec, True)


def _schema(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    """The answer follows the JSON schema of the argument, or the one that the prompt came with."""
    from jsonschema import SchemaError, validators
    from jsonschema.exceptions import best_match

    schema = json.loads(spec.argument) if spec.argument else asked.schema
    if schema is None:
        return _undecided(spec, "the prompt came without a schema")
    try:
        value = _parsed(result.text)
    except ValueError as exc:
        return _decided(spec, False, f"is not JSON: {exc}")
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as exc:
        return _undecided(spec, f"the schema itself is wrong: {exc.message[:200]}")
    mistake = best_match(kind(dict(schema)).iter_errors(value))
    if mistake is None:
        return _decided(spec, True)
    return _decided(spec, False, f"{mistake.json_path}: {mistake.message[:200]}")


def _tools(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    """The same tools called with the same arguments as recorded, in any order; the score is the share of them."""
    if asked.recorded is None:
        return _undecided(spec, "there is no recorded answer")
    wanted = [(name, _arguments(arguments)) for name, arguments in asked.recorded.tool_calls]
    made = [(name, _arguments(arguments)) for name, arguments in result.tool_calls]
    left = list(made)
    missing = []
    for call in wanted:
        if call in left:
            left.remove(call)
        else:
            missing.append(call)
    most = max(len(wanted), len(made))
    score = 1.0 if most == 0 else (len(wanted) - len(missing)) / most
    detail = "; ".join(
        [f"not called: {_call(call)}" for call in missing] + [f"called besides: {_call(call)}" for call in left]
    )
    return Check(spec.name, not missing and not left, score, detail)


def _similarity(spec: CheckSpec, result: Result, asked: Asked) -> Check:
    """How alike the words are to the recorded ones, in order: 1 is the same, 0 nothing in common."""
    from rapidfuzz.distance import Indel

    if asked.recorded is None:
        return _undecided(spec, "there is no recorded answer")
    score = Indel.normalized_similarity(asked.recorded.text.split(), result.text.split())
    least = float(spec.argument or SIMILAR)
    return Check(spec.name, score >= least, round(score, 4), "" if score >= least else f"below {least:g}")


CHECKS: dict[str, Callable[[CheckSpec, Result, Asked], Check]] = {
    "exact": _exact,
    "contains": _contains,
    "icontains": _icontains,
    "regex": _regex,
    "json": _json,
    "schema": _schema,
    "tools": _tools,
    "similarity": _similarity,
}
_NEED_ARGUMENT = ("contains", "icontains", "regex")


def _parsed(text: str) -> Any:
    """JSON, also where the model put a fence around it. Raises `ValueError`."""
    fenced = _FENCE.match(text)
    return json.loads(fenced[1] if fenced else text)


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _schema_in(path: Path) -> Any:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise WrongCheck(f"check schema:{path}: cannot be read: {exc.strerror}") from None
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object")
    return schema


def _call(call: tuple[str, Any]) -> str:
    return _short(f"{call[0]}({json.dumps(call[1], ensure_ascii=False)})")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")
