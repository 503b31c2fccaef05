"""A file of checks: which for every prompt, and which for the prompts that it names.

```yaml
checks: [similarity]                       # for every prompt
prompts:
  - turn: 01k8x…                           # a turn's id, or its beginning
    checks: ["exact:42"]
  - text: (?i)capital of france            # a regular expression that the last user message matches
    checks: ["contains:Paris", "regex:^.{1,80}$"]
```
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmproxy.bench.checks import Asked, CheckSpec, WrongCheck, default_checks, parse_check
from llmproxy.bench.results import Prompt


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"is no regular expression: {exc}") from None
    return text


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Entry(_Model):
    turn: str | None = Field(default=None, min_length=4)
    text: Annotated[str, AfterValidator(_pattern)] | None = None
    checks: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_prompts(self) -> "_Entry":
        if (self.turn is None) == (self.text is None):
            raise ValueError("say which prompts: either turn: ID or text: PATTERN")
        return self


class CheckFile(_Model):
    """The checks of a benchmark: `checks` for every prompt, `prompts` for some."""

    checks: tuple[str, ...] = ()
    prompts: tuple[_Entry, ...] = ()

    def checks_of(self, prompt: Prompt, asked: Asked) -> Sequence[CheckSpec]:
        """The checks for a prompt: all that fit, each once; where none does, the default ones."""
        texts = list(self.checks)
        for entry in self.prompts:
            if entry.turn is not None and prompt.turn_id.startswith(entry.turn):
                texts += entry.checks
            elif entry.text is not None and re.search(entry.text, prompt.text):
                texts += entry.checks
        return [parse_check(text) for text in dict.fromkeys(texts)] or default_checks(asked)


def read_check_file(path: Path | None, more: Sequence[str]) -> CheckFile:
    """The file's checks (or none) and `more` for every prompt. Raises `WrongCheck`."""
    content: Any = {}
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as exc:
            raise WrongCheck(f"{path}: cannot be read: {exc}") from None
        except yaml.YAMLError as exc:
            raise WrongCheck(f"{path}: is not YAML: {exc}") from None
    try:
        file = CheckFile.model_validate(content)
    except ValidationError as exc:
        mistake = exc.errors(include_url=False)[0]
        place = ".".join(map(str, mistake["loc"]))
        raise WrongCheck(f"{path}: {place}: {mistake['msg'].removeprefix('Value error, ')}") from None
    file = file.model_copy(update={"checks": (*file.checks, *more)})
    for text in (*file.checks, *(text for entry in file.prompts for text in entry.checks)):
        parse_check(text)
    return file
