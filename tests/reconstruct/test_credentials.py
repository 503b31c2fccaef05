import pytest

from llmproxy.reconstruct.credentials import without_credentials


def test_credentials_of_remote_tools() -> None:
    server = {"type": "mcp", "server_url": "u", "authorization": "secret", "headers": {"X-Key": "secret"}}
    options = {"mcp_servers": [{"url": "u", "authorization_token": "secret"}], "temperature": 0.5}
    assert without_credentials(server) == {
        **server,
        "authorization": "REDACTED",
        "headers": {"X-Key": "REDACTED"},
    }
    assert without_credentials(options) == {
        "mcp_servers": [{"url": "u", "authorization_token": "REDACTED"}],
        "temperature": 0.5,
    }


def test_a_schema_may_speak_of_them() -> None:
    schema = {"properties": {"authorization": {"type": "string"}, "headers": {"type": "object", "description": "h"}}}
    assert without_credentials(schema) == schema


def test_credentials_of_data_sources() -> None:
    def source(**authentication: str) -> dict[str, object]:
        return {"type": "azure_search", "parameters": {"index_name": "i", "authentication": authentication}}

    options = {"data_sources": [source(type="api_key", key="s"), source(type="access_token", access_token="s")]}
    assert without_credentials(options) == {
        "data_sources": [
            source(type="api_key", key="REDACTED"),
            source(type="access_token", access_token="REDACTED"),
        ]
    }
    old = {"dataSources": [{"type": "AzureCognitiveSearch", "parameters": {"key": "s", "indexName": "i"}}]}
    assert without_credentials(old)["dataSources"][0]["parameters"] == {"key": "REDACTED", "indexName": "i"}


@pytest.mark.parametrize("name", ["token", "accessToken", "client_secret", "password", "connection_string", "apiKey"])
def test_names_of_credentials(name: str) -> None:
    assert without_credentials({"extra": [{name: "s", "n": 1}]}) == {"extra": [{name: "REDACTED", "n": 1}]}


def test_headers_and_the_address_of_a_tool_server() -> None:
    server = {"type": "url", "name": "n", "url": "https://u:s@h/sse?token=s&a=1"}
    assert without_credentials(server)["url"] == "https://[redacted]@h/sse?token=[redacted]&a=1"
    assert without_credentials({"extra_headers": {"X-Foo": "s"}}) == {"extra_headers": {"X-Foo": "REDACTED"}}


@pytest.mark.parametrize(
    "value",
    [
        {"parameters": {"type": "object", "default": {"password": "p"}}},
        {"input_schema": {"properties": {"token": {"type": "string"}}, "examples": [{"token": "t"}]}},
        {"password": {"type": "string"}},
        {"content": [{"type": "tool_use", "input": {"password": "p", "authentication": {"key": "k"}}}]},
        {"logprobs": {"content": [{"token": "Hi", "logprob": -1.0, "top_logprobs": [{"token": "Hi"}]}]}},
        {"key": "k", "prompt_cache_key": "k", "max_tokens": 5, "eos_token": "e", "signature": "s", "value": "v"},
    ],
)
def test_what_only_looks_like_a_credential_stays(value: dict[str, object]) -> None:
    assert without_credentials(value) == value


def test_what_holds_none_is_not_copied() -> None:
    options = {"a": [{"b": [1, "x"]}], "c": {}}
    assert without_credentials(options) is options
