from typing import Any

import pytest

from llmproxy.reconstruct.json_values import Notes
from llmproxy.reconstruct.session import session_of

CASES: list[tuple[dict[str, str], dict[str, Any], str | None]] = [
    ({}, {}, None),
    ({}, {"metadata": {"user_id": '{"session_id": "s", "device_id": "d"}'}}, "s"),
    ({}, {"metadata": {"user_id": "user_ab_account__session_1f-2e"}}, "1f-2e"),
    ({}, {"metadata": {"user_id": "somebody"}}, None),
    ({"X-Claude-Code-Session-Id": "h"}, {"metadata": {"user_id": '{"session_id": "s"}'}}, "s"),
    ({"X-Claude-Code-Session-Id": "h"}, {}, "h"),
    ({"session_id": "s", "conversation_id": "c"}, {}, "s"),
    ({"session-id": "s"}, {}, "s"),
    ({"conversation_id": "c"}, {}, "c"),
    ({"X-OpenWebUI-Chat-Id": "c", "x-session-id": "s"}, {}, "c"),
    ({"x-session-affinity": "s"}, {}, "s"),
    ({"x-interaction-id": "s"}, {}, "s"),
    ({"X-KILOCODE-TASKID": "s"}, {}, "s"),
    ({"Helicone-Session-Id": "s"}, {}, "s"),
    ({"x-session-id": " "}, {"session_id": "b"}, "b"),
    ({}, {"client_metadata": {"session_id": "s"}}, "s"),
    ({}, {"litellm_session_id": "s"}, "s"),
    ({}, {"metadata": {"litellm_session_id": "s"}}, "s"),
    ({}, {"prompt_cache_key": "k", "user": "u", "safety_identifier": "i"}, None),
    ({}, {"session_id": 7, "metadata": "x", "client_metadata": []}, None),
]


@pytest.mark.parametrize(("headers", "body", "session"), CASES)
def test_session(headers: dict[str, str], body: dict[str, Any], session: str | None) -> None:
    assert session_of([(name.encode(), value.encode()) for name, value in headers.items()], body, Notes()) == session


def test_the_first_of_two_fields_counts() -> None:
    assert session_of([(b"x-session-id", b"a"), (b"X-Session-Id", b"b")], {}, Notes()) == "a"
