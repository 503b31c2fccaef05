"""The configuration: where values come from, and that every mistake is one clear message."""

import json
from pathlib import Path
from typing import Any

import llm
import pytest

from llmproxy.config import ConfigError, llm_user_dir, load


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    (tmp_path / "llm").mkdir()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything() -> None:
    config = load()
    assert (config.host, config.port, config.default_upstream_name) == ("127.0.0.1", 11435, "openai")
    assert config.upstreams["openai"].base_url == "https://api.openai.com/v1"
    assert config.upstreams["openai"].default_headers == {}
    assert config.capture.active


def test_the_environment_wins_over_the_file_and_flags_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "port: 1\nworkers: 2\nupstreams: {openai: {base_url: 'https://file/v1'}}\n")
    monkeypatch.setenv("LLMPROXY_PORT", "3")
    monkeypatch.setenv("LLMPROXY_WORKERS", "4")
    monkeypatch.setenv("LLMPROXY_UPSTREAMS__OPENAI__BASE_URL", "https://environment/v1/")
    monkeypatch.setenv("LLMPROXY_CAPTURE__FSYNC", "true")
    config = load(path, {"port": 5})
    assert (config.port, config.workers, config.capture.fsync) == (5, 4, True)
    assert config.upstreams["openai"].base_url == "https://environment/v1"


def test_references_to_the_environment_to_dotenv_and_to_llms_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("FROM_DOTENV=one\nBOTH=dotenv\n")
    (tmp_path / "llm" / "keys.json").write_text(json.dumps({"deepseek": "sk-llm"}))
    monkeypatch.setenv("BOTH", "real")
    headers = "{A: 'x ${FROM_DOTENV}', B: '${BOTH}', C: '${llm:deepseek}', D: '$${kept}', E: null}"
    path = written(tmp_path, f"upstreams: {{up: {{base_url: 'https://a/v1', default_headers: {headers}}}}}")
    assert load(path).upstreams["up"].default_headers == {
        "A": "x one", "B": "real", "C": "sk-llm", "D": "${kept}", "E": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 1", "prot: there is no 'prot'; did you mean 'port'?"),
        ("port: x", "port: "),
        ("port: 99999", "port: "),
        ("a: [", "config.yaml:1:5: is not YAML"),
        ("- a", "holds a list"),
        ("upstreams: {u: {base_ulr: 'https://a'}}", "upstreams.u.base_ulr: there is no 'base_ulr'; did you mean"),
        ("upstreams: {u: {base_url: 'ftp://a'}}", "upstreams.u.base_url: give a URL"),
        ("upstreams: {u: {base_url: 'https://me:pw@a/v1'}}", "default_headers"),
        ("upstreams: {u: {base_url: 'https://a', app: 'm:a'}}", "upstreams.u: give either base_url"),
        ("upstreams: {u: {}}", "upstreams.u: give either base_url"),
        ("upstreams: {u: {app: 'no_colon'}}", "package.module:attribute"),
        ("upstreams: {}", "upstreams"),
        ("upstreams: {v1: {base_url: 'https://a'}}", "'v1' is taken"),
        ("upstreams: {_llmproxy: {base_url: 'https://a'}}", "'_llmproxy' is taken"),
        ("upstreams: {'a/b': {base_url: 'https://a'}}", "becomes part of a path"),
        ("default_upstream: opnai", "there is no 'opnai'; did you mean 'openai'?"),
        ("upstreams: {u: {base_url: 'https://a', default_headers: {'a b': x}}}", "'a b' is not a header name"),
        ("upstreams: {u: {base_url: 'https://a', default_headers: {A: \"sk-x\\nB: y\"}}}", "line break"),
        ("upstreams: {u: {base_url: 'https://a', default_headers: {Host: x}}}", "Host belongs to the connection"),
        ("upstreams: {u: {base_url: 'https://a', default_headers: {A: '${NOPE}'}}}", "A: the variable NOPE is not set"),
        ("upstreams: {u: {base_url: 'https://a', default_headers: {A: '${llm:no}'}}}", "run: llm keys set no"),
        ("upstreams: {u: {base_url: 'https://a', read_timeout: 0}}", "read_timeout"),
        ("capture: {raw: some}", "capture.raw: "),
        ("capture: {hooks: [nope]}", "capture.hooks: 'nope' is not"),
        ("security: {clients: {alice: short}}", "security.clients: the key of alice"),
        ("security: {allowed_origins: [example.com]}", "security.allowed_origins: "),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_mend(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    message = str(raised.value)
    assert said in message and str(path) in message and message.count("\n") <= 2
    assert "sk-x" not in message and ":pw@" not in message


def test_two_clients_with_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two clients have the same key") as raised:
        load(written(tmp_path, "security: {clients: {a: secret-secret, b: secret-secret}}"))
    assert "secret-secret" not in str(raised.value)


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; copy config\.example\.yaml"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("LLMPROXY_PROT", "1", "did you mean 'port'"), ("LLMPROXY_UPSTREAMS", "x", "written as JSON")],
)
def test_mistakes_in_the_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        load()


def test_what_others_keep_under_the_prefix_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROXY_BIN", "/usr/bin/llmproxy")
    assert load().port == 11435


def test_llms_folder_is_llms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert llm_user_dir() == llm.user_dir()
    monkeypatch.delenv("LLM_USER_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert llm_user_dir() == llm.user_dir()


@pytest.mark.parametrize(
    ("enabled", "logs_off", "active"),
    [(None, False, True), (None, True, False), (True, True, True), (False, False, False)],
)
def test_llm_logs_off(tmp_path: Path, enabled: bool | None, logs_off: bool, active: bool) -> None:
    if logs_off:
        (tmp_path / "llm" / "logs-off").touch()
    flags: dict[str, Any] = {} if enabled is None else {"capture": {"enabled": enabled}}
    assert load(None, flags).capture.active is active


def test_the_spool_lies_beside_the_database(tmp_path: Path) -> None:
    capture = load(None, {"capture": {"database": str(tmp_path / "x" / "logs.db")}}).capture
    assert capture.spool_path == tmp_path / "x" / "llmproxy" / "spool"
