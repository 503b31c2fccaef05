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
        ("upstreams: {u: {app: 'm:a', models: [m]}}", "upstreams.u: models go with base_url"),
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
        ("capture: {database: '~nobody-of-that-name/logs.db'}", "capture.database: there is no such user"),
        ("a: *sk-x", "config.yaml:1:4: a value that begins with"),
        ("a: !sk-x 1", "config.yaml:1:4: a value that begins with"),
        ("a: {{ sk-x }}", "config.yaml:1:5: a value that begins with"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("upstreams: {u: {base_url: 'https://a b/v1'}}", "upstreams.u.base_url: the URL holds a space"),
        ('upstreams: {u: {base_url: "https://a/v1\\n"}}', "upstreams.u.base_url: the URL holds a space"),
        ("upstreams: {u: {base_url: 'https://a:x/v1'}}", "upstreams.u.base_url: the port is a number"),
        ("upstreams: {u: {base_url: 'https://a/v1?key=sk-x'}}", "upstreams.u.base_url: leave the query"),
        ("upstreams: [1]", "upstreams: Input should be a valid dictionary"),
        ("capture: yes", "capture: "),
        ("1: 1", "1: there is no '1'; there is: ask, capture"),
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
    [
        ("LLMPROXY_PROT", "sk-x", "the environment: LLMPROXY_PROT: there is no 'prot'; did you mean 'port'"),
        ("LLMPROXY_UPSTREAMS", "sk-x", "the environment: LLMPROXY_UPSTREAMS: lists and mappings are written as JSON"),
        ("LLMPROXY_SECURITY__ALLOWED_HOSTS", "box.lan", "LLMPROXY_SECURITY: lists and mappings are written as JSON"),
        ("LLMPROXY_PORT", "sk-x", "the environment: port: "),
        ("LLMPROXY_UPSTREAMS__OPENAI__BASE_ULR", "sk-x", "the environment: upstreams.openai.base_ulr: there is no"),
        ("LLMPROXY_SECURITY__CLIENTS__BOB", "sk-x", "the environment: security.clients"),
    ],
)
def test_mistakes_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    path = written(tmp_path, "port: 1\nupstreams: {openai: {base_url: 'https://a'}}\nsecurity: {clients: {}}")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert said in str(raised.value) and value not in str(raised.value)


def test_mistakes_of_flags_and_of_the_file_are_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, "workers: 0\ncapture: {hooks: [nope]}")
    with pytest.raises(ConfigError) as raised:
        load(path, {"port": 99999})
    places = [line.partition(": ")[0] for line in str(raised.value).split("\n")]
    assert places == ["the command line", str(path), str(path)]


@pytest.mark.parametrize("content", [b"A=\xff\n", None])
def test_a_dotenv_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    path = written(tmp_path, "port: 1")
    (tmp_path / ".env").write_bytes(content or b"A=1")
    if content is None:  # whoever runs the tests may be allowed to read everything

        def refused(path: Path) -> dict[str, str]:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("llmproxy.config.reading.dotenv_values", refused)
    with pytest.raises(ConfigError, match=r"\.env: (is not UTF-8|cannot be read: Permission denied)"):
        load(path)


def test_keys_of_llm_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "llm" / "keys.json").write_text("{")
    with pytest.raises(ConfigError, match=r"keys\.json: cannot be read"):
        load(written(tmp_path, "host: '${llm:a}'"))


def test_the_environments_header_replaces_the_files_whatever_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROXY_UPSTREAMS__U__DEFAULT_HEADERS__AUTHORIZATION", "Bearer environment")
    text = "upstreams: {u: {base_url: 'https://a', default_headers: {Authorization: Bearer file, X-A: '1'}}}"
    headers = load(written(tmp_path, text)).upstreams["u"].default_headers
    assert headers == {"X-A": "1", "authorization": "Bearer environment"}


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1


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
