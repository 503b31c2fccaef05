"""Tests that run against captured answers: offline, deterministic and free.

With pytest, ask for the fixture `llmproxy_replay` (`llmproxy.testing.plugin`); without it, use `replaying`. What was
answered lies in a cassette: a logs database of `llm`, small enough to be kept beside the tests.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROVIDERS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}


class NoCassette(FileNotFoundError):
    """There is nothing to replay from. The message says how to record it."""


@dataclass(frozen=True, slots=True)
class Replaying:
    """A proxy that replays. `url` has no path; `environment` is what points the SDKs at it."""

    url: str
    cassette: Path
    environment: Mapping[str, str]


@contextmanager
def replaying(
    cassette: Path,
    *,
    record: bool = False,
    speed: float = 0,
    match: Sequence[str] = (),
    upstreams: Mapping[str, str] | None = None,
) -> Iterator[Replaying]:
    """A proxy on a free port, in a thread, that answers from `cassette`.

    - `record`: send what is not known to the provider, and keep the answer: it is in the cassette when the block ends.
    - `speed`: 1 makes the pauses that were captured, 0 none. `match`: the options that count, besides conversation,
      model, tools and schema; ``("*",)`` for all.
    - `upstreams`: names and base URLs; the first is at ``/v1``, each at ``/NAME/v1``. By default OpenAI and Anthropic.

    Raises `NoCassette`; `RuntimeError` where the proxy does not start or what was recorded cannot be written.
    """
    from llmproxy.testing.proxy import replay_in_thread

    if not record and not cassette.exists():
        raise NoCassette(f"{cassette}: there is no cassette; record it with: pytest --llmproxy-record")
    providers = dict(upstreams or PROVIDERS)
    with replay_in_thread(cassette, providers, record=record, speed=speed, match=match) as port:
        url = f"http://127.0.0.1:{port}"
        environment = {"OPENAI_BASE_URL": f"{url}/openai/v1" if "openai" in providers else f"{url}/v1"}
        if "anthropic" in providers:
            environment["ANTHROPIC_BASE_URL"] = f"{url}/anthropic"
        yield Replaying(url, cassette, environment)
