"""Raw bodies keep all but their credentials, and their length."""

import gzip
import json

import pytest

from llmproxy.headers import Header
from llmproxy.reconstruct.raw_bodies import masked, without_credentials_of

JSON: list[Header] = [(b"content-type", b"application/json")]
FORM: list[Header] = [(b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8")]
MULTIPART: list[Header] = [(b"content-type", b"multipart/form-data; boundary=b")]
TOOL = (
    b'{"tools": [{"type": "mcp", "server_label": "s", "authorization": "sec-1", "headers": {"X-A" : "sec-2"}}], "n": 1'
)
PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "secrets"),
    [
        (JSON, TOOL + b"}", [b"sec-1", b"sec-2"]),
        (JSON, TOOL, [b"sec-1", b"sec-2"]),
        (JSON, b'{"client_secret": "Se', [b"Se"]),
        (JSON, rb'{"a":":","p\u0061ssword":"s\"\u0065\/","b":"password"}', [rb"s\"\u0065\/"]),
        (JSON, b'{"value":"ek_1","expires_at":1}', [b"ek_1"]),
        (JSON, b'{"grant_type":"c","code":"Q","client_id":"i"}', [b"Q"]),
        ([], b'event: x\ndata: {"token":"Sec"}\n\ndata: [DONE]\n\n', [b"Sec"]),
        (FORM, b"grant_type=r&refresh_token=Sec&client%5Fsecret=a%20b&x=1", [b"Sec", b"a%20b"]),
        (FORM, b"=&&=token=Sec&a&=&password=", [b"Sec"]),
        (MULTIPART, PART % (b"api_key", b"Sec") + PART % (b"file", b"f") + b"--b--", [b"Sec"]),
    ],
)
def test_credentials_are_masked(headers: list[Header], body: bytes, secrets: list[bytes]) -> None:
    kept = body
    for secret in secrets:
        at = kept.rindex(secret)
        kept = kept[:at] + b"*" * len(secret) + kept[at + len(secret) :]
    assert masked(headers, body) == kept
    assert masked(headers, kept) == kept
    assert without_credentials_of(headers, body) == without_credentials_of(headers, kept)


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"content": "\\"password\\": \\"p\\"", "calls": [{"arguments": "{\\"token\\":\\"t\\"}"}]}]}',
        b'{"choices": [{"logprobs": {"content": [{"token": "Hi"}]}}], "usage": {"total_tokens": 1}}',
        b"\xff\xfe\x00\x01",
        b"",
        b"null",
        b"<html>",
    ],
)
def test_the_rest_is_kept_to_the_byte(body: bytes) -> None:
    assert masked(JSON, body) == body


@pytest.mark.parametrize("body", [b"x" * 10_000_000, b"token=" + b"=x" * 5_000_000, b"&x" * 3_000_000])
def test_a_form_that_is_none_is_read_in_one_go(body: bytes) -> None:
    kept = masked(FORM, body)
    assert kept is not None and len(kept) == len(body) and (b"*" in kept) == (b"token" in body)


def test_of_what_is_compressed_nothing_can_be_taken_out() -> None:
    headers = [(b"content-encoding", b"gzip")]
    assert masked(headers, gzip.compress(b'{"password": "p"}')) is None
    innocent = gzip.compress(b'{"a": "p"}')
    assert masked(headers, innocent) == innocent


def test_it_takes_a_time_in_proportion_to_what_is_read() -> None:
    # Quotes in a text begin nothing, however many there are; a square of their number would take minutes.
    text = json.dumps({"content": '"x": ' * 200_000, "password": "sec"}).encode()
    kept = masked(JSON, text)
    assert kept is not None and kept.endswith(b'"password": "***"}')
    assert masked(JSON, text[:-8]) is not None
