"""The `options` of the replay upstream."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmproxy.config import CaptureConfig, UpstreamConfig


class Options(BaseModel):
    """Where answers come from, and when a request is the same as a captured one.

    - `database`: the logs database; null: where `llm logs path` points.
    - `mode`: `only` answers a request that is not known with 404, `record` sends it to `upstream`.
    - `upstream`: as under `upstreams` in the configuration: `base_url`, `default_headers`, timeouts.
    - `speed`: 1 makes the recorded pauses, 2 half of them, 0 none.
    - `match`: the options that count besides conversation, model, tools and schema: `[temperature]`; `["*"]`: all.
    - `from_upstream`, `from_model`: only what was captured from there; in a model `*` stands for anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: Path | None = None
    mode: Literal["only", "record"] = "only"
    upstream: UpstreamConfig | None = None
    speed: float = Field(default=1, ge=0)
    match: tuple[str, ...] = ()
    from_upstream: str | None = None
    from_model: str | None = None

    @model_validator(mode="after")
    def _somewhere_to_go(self) -> "Options":
        if self.mode == "record" and (self.upstream is None or self.upstream.base_url is None):
            raise ValueError("mode: record needs upstream: {base_url: …}, where to send what is not known")
        if self.mode == "only" and self.upstream is not None:
            raise ValueError("upstream is for mode: record")
        return self

    @property
    def database_path(self) -> Path:
        return CaptureConfig(database=self.database).database_path
