"""How a run is made: what is kept of the command line, so that the run can go on later in the same way."""

from pydantic import BaseModel, ConfigDict, Field

from llmproxy.bench.check_file import CheckFile


class Settings(BaseModel):
    """The settings of a run.

    - `rate`: calls begun in a second at most; `retries`: of a call that may succeed later; `max_cost`: dollars, the
      judge's included.
    - `judge`: UPSTREAM/MODEL; `rubric`: the text by which it judges; None: it compares with the recorded answer.
    - `selection`: how the prompts were chosen, for reading.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    repeat: int = Field(default=1, ge=1)
    concurrency: int = Field(default=4, ge=1, le=1000)
    rate: float | None = Field(default=None, gt=0)
    retries: int = Field(default=4, ge=0)
    seed: int = 0
    max_cost: float | None = Field(default=None, gt=0)
    warm_up: bool = True
    checks: CheckFile = CheckFile()
    judge: str | None = None
    rubric: str | None = None
    selection: str = ""

    @property
    def seconds_between(self) -> float:
        """Of the starts of two calls, at least."""
        return 1 / self.rate if self.rate else 0.0
