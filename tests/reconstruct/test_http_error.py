from typing import Any

import pytest

from llmproxy.reconstruct.http_error import HttpError, read_http_error


@pytest.mark.parametrize(
    ("body", "message", "value"),
    [
        (b'{"error": {"message": "m", "code": 400}}', "m", {"error": {"message": "m", "code": 400}}),
        (b'{"error": "m"}', "m", {"error": "m"}),
        (b'{"code": "c", "error": "m"}', "m", {"code": "c", "error": "m"}),
        (b'{"object": "error", "message": "m"}', "m", {"object": "error", "message": "m"}),
        (b'{"message": "m", "type": "t"}', "m", {"message": "m", "type": "t"}),
        (b'{"detail": "m"}', "m", {"detail": "m"}),
        (b'{"detail": [{"msg": "m"}]}', '{"detail": [{"msg": "m"}]}', {"detail": [{"msg": "m"}]}),
        (b'{"type": "error", "error": {"type": "t", "message": "m"}}', "m", None),
        (b'[{"error": {"code": 400, "message": "m"}}]', "m", [{"error": {"code": 400, "message": "m"}}]),
        (b'{"success": false, "errors": [{"code": 7009, "message": "m"}], "error": null}', "m", None),
        (b'{"errors": []}', '{"errors": []}', {"errors": []}),
        (b'"m"', "m", "m"),
        (b"{}", "HTTP 502", {}),
        (b"null", "HTTP 502", None),
        (b"", "HTTP 502", None),
        (b" <html>\xff" + b"x" * 1000, "<html>\ufffd" + "x" * 493, None),
    ],
)
def test_shapes(body: bytes, message: str, value: Any) -> None:
    error = read_http_error(502, body)
    assert error.message == message
    if value is not None:
        assert error == HttpError(message, value)
