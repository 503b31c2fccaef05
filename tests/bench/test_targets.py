"""Targets as the user says them."""

from pathlib import Path

import pytest

from llmproxy.bench.results import Target
from llmproxy.bench.targets import WrongTarget, parse_targets
from llmproxy.config import Config, UpstreamConfig

CONFIG = Config(upstreams={"up": UpstreamConfig(base_url="https://up.test/v1")})


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("up/m", Target("up/m", "up", "m")),
        ("up/org/model:free", Target("up/org/model:free", "up", "org/model:free")),
        ("up/m,top_p=0.5,stop=x", Target("up/m,top_p=0.5,stop=x", "up", "m", {"top_p": 0.5, "stop": "x"})),
        ("up/m,name=cold,temperature=0", Target("cold", "up", "m", {"temperature": 0})),
        ("up/m,thinking=null", Target("up/m,thinking=null", "up", "m", {"thinking": None})),
        ("up/m,api=messages,name=x", Target("x", "up", "m", api="messages")),
        ('up/m,name=x,stop=["a", "b"],seed=1', Target("x", "up", "m", {"stop": ["a", "b"], "seed": 1})),
        ("llm/gpt-4o", Target("llm/gpt-4o", "llm", "gpt-4o")),
    ],
)
def test_a_target(text: str, target: Target) -> None:
    assert parse_targets([text], CONFIG) == (target,)


def test_a_file_of_targets(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("- up/a\n- {target: up/b, name: bee, options: {top_p: 0.1}}\n")
    assert parse_targets([str(tmp_path / "t.yaml"), "up/c"], CONFIG) == (
        Target("up/a", "up", "a"),
        Target("bee", "up", "b", {"top_p": 0.1}),
        Target("up/c", "up", "c"),
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["m"], "write UPSTREAM/MODEL, such as up/MODEL"),
        (["upp/m"], "did you mean 'up'"),
        (["nothing/m"], "the configuration has: up"),
        (["up/m,temperature"], "is no option"),
        (["up/m,api=smoke"], "there is: chat.completions"),
        (["up/m", "up/m"], "given twice"),
        (["up/m,name=as recorded"], "is the baseline's"),
        (["/nowhere/t.yaml"], "cannot be read"),
    ],
)
def test_wrong_targets_are_told_with_the_mend(given: list[str], reason: str) -> None:
    with pytest.raises(WrongTarget, match=reason):
        parse_targets(given, CONFIG)
