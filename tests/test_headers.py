"""The header rules, as tables."""

import pytest

from llmproxy.headers import Header, get, redact_headers, redact_query, redact_target, request_headers, response_headers

HOST = b"api.example.com"


@pytest.mark.parametrize(
    ("client", "sent"),
    [
        ([(b"b", b"1"), (b"a", b"2"), (b"b", b"3")], [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]),
        ([(b"host", b"localhost"), (b"a", b"1")], [(b"a", b"1")]),
        ([(b"connection", b"close"), (b"a", b"1")], [(b"a", b"1")]),
        ([(b"connection", b"X-Hop, keep-alive"), (b"x-hop", b"1"), (b"a", b"1")], [(b"a", b"1")]),
        ([(b"connection", b"x-one"), (b"connection", b"x-two"), (b"x-one", b"1"), (b"x-two", b"2")], []),
        ([(b"te", b"trailers"), (b"trailer", b"x"), (b"keep-alive", b"5"), (b"upgrade", b"h2c")], []),
        ([(b"transfer-encoding", b"chunked"), (b"proxy-authorization", b"Basic x")], []),
        ([(b"expect", b"100-continue"), (b"content-length", b"2")], [(b"content-length", b"2")]),
        ([(b"cookie", b"a=1"), (b"via", b"1.1 x"), (b"authorization", b"k")],) * 2,
    ],
)
def test_what_of_the_clients_fields_is_sent(client: list[Header], sent: list[Header]) -> None:
    assert request_headers(client, HOST, (), frozenset()) == [(b"host", HOST), *sent]


def test_defaults_win_and_removed_fields_are_gone() -> None:
    client = [(b"authorization", b"theirs"), (b"x-drop", b"1"), (b"x-keep", b"1"), (b"x-llmproxy-key", b"k")]
    replaced = frozenset((b"authorization", b"x-drop", b"x-llmproxy-key"))
    sent = request_headers(client, HOST, [(b"authorization", b"ours")], replaced)
    assert sent == [(b"host", HOST), (b"x-keep", b"1"), (b"authorization", b"ours")]


@pytest.mark.parametrize(
    ("upstream", "status", "passed"),
    [
        ([(b"X-A", b"1"), (b"Set-Cookie", b"a"), (b"set-cookie", b"b")], 200, None),
        ([(b"Server", b"nginx"), (b"Date", b"x"), (b"Content-Length", b"3")], 200, None),
        ([(b"Connection", b"keep-alive"), (b"Keep-Alive", b"5"), (b"Transfer-Encoding", b"chunked")], 200, []),
        ([(b"Connection", b"X-Hop"), (b"x-hop", b"1"), (b"X-A", b"1")], 200, [(b"X-A", b"1")]),
        ([(b"Content-Length", b"10"), (b"ETag", b"x")], 304, [(b"ETag", b"x")]),
        ([(b"Content-Length", b"0")], 204, []),
    ],
)
def test_what_of_the_upstreams_fields_is_passed(
    upstream: list[Header], status: int, passed: list[Header] | None
) -> None:
    assert response_headers(upstream, status) == (upstream if passed is None else passed)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "x-api-key", "api-key",
        "X-Goog-Api-Key", "x-llmproxy-key", "X-Auth-Token", "x-amz-security-token", "X-Secret", "x-csrf-token",
        "Ocp-Apim-Subscription-Key", "x-password", "x-signature", "apikey", "X-AccessToken", "X-UserPassword",
        "x-portkey-config", "X-Auth-Token-Id", "x-apikey2", "CF-Access-Jwt-Assertion", "x-amzn-oidc-data",
    ],
)  # fmt: skip
def test_credentials_are_redacted(name: str) -> None:
    assert redact_headers([(name.encode(), b"secret")]) == [(name.encode(), b"[redacted]")]


@pytest.mark.parametrize(
    "name",
    ["x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-limit", "content-type", "x-request-id", "user-agent",
     "openai-organization", "x-stainless-lang", "x-claude-code-session-id", "session_id", "tokenizer"],
)  # fmt: skip
def test_other_fields_are_not_redacted(name: str) -> None:
    assert redact_headers([(name.encode(), b"value")]) == [(name.encode(), b"value")]


def test_more_names_can_be_redacted() -> None:
    assert redact_headers([(b"X-Account", b"7")], frozenset((b"x-account",))) == [(b"X-Account", b"[redacted]")]


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        (b"", b""),
        (b"a=1&b=2", b"a=1&b=2"),
        (b"key=s", b"key=[redacted]"),
        (b"a=1&api_key=s&b=2", b"a=1&api_key=[redacted]&b=2"),
        (b"access_token=s;x=1", b"access_token=[redacted];x=1"),
        (b"API-KEY=s", b"API-KEY=[redacted]"),
        (
            b"accessToken=s&apiKey=t&client_secret=u",
            b"accessToken=[redacted]&apiKey=[redacted]&client_secret=[redacted]",
        ),
        (b"code=s&zipcode=1&design=2", b"code=[redacted]&zipcode=1&design=2"),
        (b"k%65y=s", b"k%65y=[redacted]"),
        (b"max_tokens=5&monkey=1&keyboard=2", b"max_tokens=5&monkey=1&keyboard=2"),
        (b"token=a=b", b"token=[redacted]"),
        (b"sig=x&X-Amz-Signature=y", b"sig=[redacted]&X-Amz-Signature=[redacted]"),
        (b"key", b"key"),
    ],
)
def test_keys_in_the_query_are_redacted(query: bytes, redacted: bytes) -> None:
    assert redact_query(query) == redacted


@pytest.mark.parametrize(
    ("name", "value", "redacted"),
    [
        ("Location", b"https://u:s@h/x?sig=s&a=1", b"https://[redacted]@h/x?sig=[redacted]&a=1"),
        ("location", b"/cb?a=1#access_token=s&state=1", b"/cb?a=1#access_token=[redacted]&state=1"),
        ("Referer", b"https://h/x?api_key=s", b"https://h/x?api_key=[redacted]"),
        ("X-Forwarded-Uri", b"/v1?key=s", b"/v1?key=[redacted]"),
        ("Content-Location", b"//u:s@h/@me/x@y?z=u@h", b"//[redacted]@h/@me/x@y?z=u@h"),
        ("Operation-Location", b"https://h/x?api-version=1", b"https://h/x?api-version=1"),
        ("Link", b'<https://u:s@h/?token=s>; rel="next"', b'<https://[redacted]@h/?token=[redacted]>; rel="next"'),
    ],
)
def test_of_a_url_only_its_credentials_are_redacted(name: str, value: bytes, redacted: bytes) -> None:
    assert redact_headers([(name.encode(), value)]) == [(name.encode(), redacted)]


@pytest.mark.parametrize(
    ("target", "redacted"),
    [
        (b"http://u:s@h/v1?apikey=s&x=1", b"http://[redacted]@h/v1?apikey=[redacted]&x=1"),
        (b"/v1//u:s@h?key=s", b"/v1//u:s@h?key=[redacted]"),
        (b"/v1?", b"/v1?"),
        (b"*", b"*"),
    ],
)
def test_what_form_a_target_has_its_credentials_are_redacted(target: bytes, redacted: bytes) -> None:
    assert redact_target(target) == redacted


def test_get_finds_the_first_whatever_its_case() -> None:
    assert get([(b"X-A", b"1"), (b"x-a", b"2")], b"x-a") == b"1"
    assert get([], b"x-a") is None
