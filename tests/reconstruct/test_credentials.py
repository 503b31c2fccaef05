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


def test_what_holds_none_is_not_copied() -> None:
    options = {"a": [{"b": [1, "x"]}], "c": {}}
    assert without_credentials(options) is options
