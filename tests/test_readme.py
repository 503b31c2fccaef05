"""The README and the other pages say what is true: their snippets run."""

import ast
import json
import re
import sqlite3
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

import llmproxy
from llmproxy.cli import main
from llmproxy.config import load
from llmproxy.preflight import check_startable
from tests.inprocess.legacy_service import WHOLE, legacy_service
from tests.proxy import proxy_in_thread
from tests.store.conversations import Recordings, assistant, user

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def snippets(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def test_the_queries_run() -> None:
    recordings = Recordings()
    first = recordings.exchange([user("q")], assistant("a"))
    recordings.exchange([user("q"), assistant("a"), user("q2")], assistant("a2"))
    recordings.write()
    queries = snippets("sql")
    assert len(queries) == 3
    results = [recordings.db.execute(query).fetchall() for query in queries]
    assert results[0][0][:3] == ("up", "m", 2)
    assert results[1] == []
    assert results[2] == [(first, "q", None, 2)]


def test_the_configuration_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-x")
    (snippet,) = (snippet for snippet in snippets("yaml") if "deepseek" in snippet)
    (tmp_path / "config.yaml").write_text(snippet)
    config = load(tmp_path / "config.yaml")
    assert list(config.upstreams) == ["openai", "anthropic", "deepseek"]
    assert config.upstreams["deepseek"].default_headers == {"Authorization": "Bearer sk-x"}


def test_the_recipes_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("OPEN_WEBUI_KEY", "0123456789")
    configurations = [snippet for snippet in snippets("yaml", RECIPES) if snippet.startswith("# config.yaml")]
    assert len(configurations) == 3
    for snippet in configurations:
        (tmp_path / "config.yaml").write_text(snippet)
        check_startable(load(tmp_path / "config.yaml", {"capture": {"enabled": False}}))
    (codex,) = snippets("toml", RECIPES)
    assert tomllib.loads(codex)["model_providers"]["llmproxy"]["wire_api"] == "responses"
    (continue_dev,) = (snippet for snippet in snippets("yaml", RECIPES) if snippet not in configurations)
    assert yaml.safe_load(continue_dev)["models"][0]["apiBase"] == "http://127.0.0.1:11435/v1"
    for snippet in snippets("python", RECIPES):
        ast.parse(snippet)


def test_every_link_leads_to_a_page_and_its_heading() -> None:
    for page, folder in ((README, ROOT), (RECIPES, ROOT / "docs")):
        for target in re.findall(r"\]\(([^)]+)\)", page):
            path, _, heading = target.partition("#")
            if "://" not in target:
                text = (folder / path).read_text(encoding="utf-8")
                assert not heading or heading in map(anchor, re.findall(r"^#+ (.*)$", text, re.M)), target


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_hook_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmproxy.hooks import load_hooks

    (snippet,) = (snippet for snippet in snippets("python") if "my_hooks.py" in snippet)
    (tmp_path / "my_hooks.py").write_text(snippet)
    monkeypatch.syspath_prepend(tmp_path)
    (hook,) = load_hooks(["my_hooks:tell"])
    assert hook.__annotations__["turn"] is llmproxy.Turn
    sys.modules.pop("my_hooks")


def test_the_search_service_answers_and_takes_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (configuration,) = (snippet for snippet in snippets("yaml") if "foreign_sse" in snippet)
    (program,) = (snippet for snippet in snippets("python") if "OPENAI_BASE_URL" in snippet)
    (body,) = re.findall(r"/v1/ask .*? -d '(.*?)'", README, re.S)
    upstreams = yaml.safe_load(configuration)["upstreams"]
    with legacy_service() as service:
        url = upstreams["search"]["options"]["url"]
        upstreams["search"]["options"]["url"] = url.replace(":8000/", f":{service.port}/")
        with proxy_in_thread(tmp_path, upstreams=upstreams, ask={"model": "search"}) as proxy:
            monkeypatch.setenv("OPENAI_BASE_URL", f"{proxy.url}/v1")
            exec(program, {})
            assert WHOLE in capsys.readouterr().out
            response = httpx2.post(f"{proxy.url}/v1/ask", json=json.loads(body))
            assert response.text.endswith("data: [DONE]\n\n")
    assert service.asked[1][2].endswith(b"&search_query=and+the+second+one%3F")


def test_every_command_that_is_named_exists() -> None:
    text = README + RECIPES + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|bin/|^)llmproxy ([a-z]+)", text, re.M))
    assert {"demo", "serve", "stats"} <= named <= set(main.commands)


def test_every_command_has_help_with_an_example() -> None:
    for name, command in main.commands.items():
        assert f"llmproxy {name}" in (command.help or ""), name


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:tests|llmproxy|docs|benchmarks|reconstruct|store)/[\w/.]*)`", README):
        assert (ROOT / path).exists() or (ROOT / "llmproxy" / path).exists(), path


def test_the_example_of_everything_shows_every_key_with_its_default() -> None:
    shown = yaml.safe_load((ROOT / "config.example.yaml").read_text(encoding="utf-8"))
    assert load(ROOT / "config.example.yaml") == load()
    defaults = load().model_dump(mode="json")
    assert keys(shown) == keys(defaults)


def keys(settings: dict[str, Any], place: str = "") -> set[str]:
    found = set()
    for name, value in settings.items():
        found.add(f"{place}{name}")
        if isinstance(value, dict):
            found |= keys(value, f"{place}{name}.")
    return found


def test_sqlite_is_new_enough() -> None:
    assert sqlite3.sqlite_version_info >= (3, 35)
