"""The guard: who is let in, and that nothing of a refused request goes anywhere."""

import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmproxy.config import SecurityConfig
from llmproxy.errors import ProxyError
from llmproxy.guard import Guard
from llmproxy.headers import Header
from tests.proxy import proxy_in_thread
from tests.raw_upstream import answer, raw_upstream

KEY = "key-of-alice-123"


def outcome(headers: list[Header], *, loopback: bool = True, health: bool = False, **security: Any) -> str:
    """The client's name or the error's code."""
    guard = Guard(SecurityConfig(**security), loopback=loopback)
    try:
        return guard.admit(headers, open_to_all=health).client or "anyone"
    except ProxyError as exc:
        return exc.code


LOCAL = (b"host", b"localhost:11435")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([LOCAL], "anyone"),
        ([(b"host", b"127.0.0.1:11435")], "anyone"),
        ([(b"host", b"127.9.9.9")], "anyone"),
        ([(b"host", b"[::1]:11435")], "anyone"),
        ([(b"host", b"LOCALHOST")], "anyone"),
        ([(b"host", b"app.localhost:1")], "anyone"),
        ([(b"host", b"evil.example:11435")], "host_refused"),
        ([(b"host", b"localhost.evil.example")], "host_refused"),
        ([(b"host", b"127.0.0.1.evil.example")], "host_refused"),
        ([(b"host", b"192.168.0.2")], "host_refused"),
        ([(b"host", b"")], "host_refused"),
        ([], "host_refused"),
        ([LOCAL, (b"origin", b"https://evil.example")], "origin_refused"),
        ([LOCAL, (b"origin", b"null")], "origin_refused"),
        ([LOCAL, (b"origin", b"http://localhost:3000")], "origin_refused"),
        ([LOCAL, (b"origin", b"http://localhost:11435")], "anyone"),
        # DNS rebinding: the page's name is both its origin and our host.
        ([(b"host", b"evil.example:11435"), (b"origin", b"http://evil.example:11435")], "origin_refused"),
        ([(b"host", b"[::1]:11435"), (b"origin", b"http://[::1]:11435")], "anyone"),
        ([(b"host", b"[::2]:11435")], "host_refused"),
        ([(b"host", b"::1")], "host_refused"),
        ([(b"host", b"[::1].evil.example")], "host_refused"),
        ([(b"host", b"localhost:11435@evil.example")], "host_refused"),
        ([LOCAL, (b"sec-fetch-site", b"cross-site")], "origin_refused"),
        ([LOCAL, (b"sec-fetch-site", b"none")], "anyone"),
        ([LOCAL, (b"sec-fetch-site", b"same-origin")], "anyone"),
    ],
)
def test_origins_and_hosts(headers: list[Header], expected: str) -> None:
    assert outcome(headers) == expected


def test_what_the_configuration_lets_in() -> None:
    assert outcome([(b"host", b"box.lan:1")], allowed_hosts=["box.lan"]) == "anyone"
    page = [LOCAL, (b"origin", b"https://app.example.com"), (b"sec-fetch-site", b"cross-site")]
    assert outcome(page, allowed_origins=["https://app.example.com"]) == "anyone"
    assert outcome([(b"host", b"anything")], loopback=False, clients={"alice": KEY}, health=True) == "anyone"
    assert outcome([(b"host", b"anything")], loopback=False, allowed_hosts=["box.lan"]) == "host_refused"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ((b"authorization", b"Bearer " + KEY.encode()), "alice"),
        ((b"authorization", b"bearer  " + KEY.encode()), "alice"),
        ((b"x-api-key", KEY.encode()), "alice"),
        ((b"x-llmproxy-key", KEY.encode()), "alice"),
        ((b"authorization", KEY.encode()), "client_key_required"),
        ((b"authorization", b"Basic " + KEY.encode()), "client_key_required"),
        ((b"authorization", b"Bearer " + KEY.encode()[:-1]), "client_key_required"),
        ((b"x-other", KEY.encode()), "client_key_required"),
        ((b"authorization", b"Bearer \xff"), "client_key_required"),
    ],
)
def test_clients_keys(header: Header, expected: str) -> None:
    assert outcome([LOCAL, header], clients={"alice": KEY, "bob": "key-of-bob-456789"}) == expected


REFUSED: list[tuple[str, dict[str, str]]] = [
    ("POST", {"origin": "https://evil.example", "content-type": "text/plain"}),
    ("OPTIONS", {"origin": "https://evil.example", "access-control-request-method": "POST"}),
    ("POST", {"host": "evil.example"}),
    ("GET", {"sec-fetch-site": "cross-site"}),
]


@pytest.mark.parametrize(("method", "headers"), REFUSED)
def test_what_is_refused_goes_nowhere(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    with raw_upstream(lambda c, r: c.send(answer(b"x"))) as up:
        with proxy_in_thread(tmp_path, upstreams={"up": {"base_url": f"{up.url}/v1"}}) as proxy:
            with httpx2.Client(base_url=proxy.url) as client:
                content = b"{}" * 100_000 if method == "POST" else None
                refused = client.request(method, "/v1/chat/completions", headers=headers, content=content)
                assert refused.status_code == 403
                assert refused.headers["x-llmproxy-error"] in ("origin_refused", "host_refused")
                assert not any(name.startswith("access-control") for name in refused.headers)
                assert client.get("/v1/models").status_code == 200
                assert "llmproxy_refused_total" in client.get("/_llmproxy/metrics").text
            assert [request.request_line for request in up.requests] == [b"GET /v1/models HTTP/1.1"]
            assert len(proxy.exchanges()) == 1


@pytest.mark.parametrize("framing", ["content-length", "chunked", "expect"])
def test_a_refused_request_with_a_body_breaks_nothing(tmp_path: Path, framing: str) -> None:
    """The answer comes without a look at the body; what follows on the connection is read from its own beginning."""
    body = b"GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 300_000
    head = b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
    if framing == "chunked":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        more = b"Expect: 100-continue\r\n" if framing == "expect" else b""
        data = head + more + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    with raw_upstream(lambda c, r: c.send(answer(b"x"))) as up:
        with proxy_in_thread(tmp_path, upstreams={"up": {"base_url": f"{up.url}/v1"}}) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as sock:
                sock.sendall(data + b"GET /v1/next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                got = b""
                try:
                    while piece := sock.recv(65536):
                        got += piece
                except ConnectionResetError:
                    pass  # to close it is as good as to read on
            assert got.count(b"HTTP/1.1 403") == 1
            assert httpx2.get(f"{proxy.url}/v1/health").status_code == 200
        assert {request.request_line for request in up.requests} <= {b"GET /v1/next HTTP/1.1"}


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-llmproxy-key"])
def test_a_clients_key_is_recorded_by_name_and_never_sent_on(tmp_path: Path, header: str) -> None:
    sent = {header: f"Bearer {KEY}" if header == "authorization" else KEY}
    if header == "x-llmproxy-key":
        sent["authorization"] = "Bearer the-providers"
    with raw_upstream(lambda c, r: c.send(answer(b"x"))) as up:
        upstreams = {"up": {"base_url": f"{up.url}/v1"}}
        with proxy_in_thread(tmp_path, upstreams=upstreams, security={"clients": {"alice": KEY}}) as proxy:
            assert httpx2.post(f"{proxy.url}/v1/x", content=b"{}").status_code == 401
            assert httpx2.get(f"{proxy.url}/_llmproxy/metrics").status_code == 401
            assert httpx2.get(f"{proxy.url}/v1/health").status_code == 200
            assert httpx2.post(f"{proxy.url}/v1/x", content=b"{}", headers=sent).status_code == 200
            assert proxy.exchange().client == "alice"
    (request,) = up.requests
    assert KEY.encode() not in request.head
    assert (b"the-providers" in request.head) == (header == "x-llmproxy-key")
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_key_that_is_sent_twice_is_taken_out_twice(tmp_path: Path) -> None:
    sent = {"authorization": f"Bearer {KEY}", "x-api-key": KEY}
    with raw_upstream(lambda c, r: c.send(answer(b"x"))) as up:
        upstreams = {"up": {"base_url": f"{up.url}/v1"}}
        with proxy_in_thread(tmp_path, upstreams=upstreams, security={"clients": {"alice": KEY}}) as proxy:
            assert httpx2.post(f"{proxy.url}/v1/x", content=b"{}", headers=sent).status_code == 200
    assert KEY.encode() not in up.requests[0].head
