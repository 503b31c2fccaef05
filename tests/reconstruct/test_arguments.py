from typing import Any

import pytest
from llm.parts import ToolCallPart

from llmproxy.reconstruct.arguments import call_part, custom_call_part
from llmproxy.reconstruct.json_values import Notes


@pytest.mark.parametrize(
    ("arguments", "parsed", "unparsed"),
    [
        ('{"a": 1}', {"a": 1}, None),
        ({"a": 1}, {"a": 1}, None),
        ("{}", {}, None),
        ("", {}, None),
        (None, {}, None),
        ("null", {}, "null"),
        ('{"a": ', {}, '{"a": '),
        ('{"a": NaN}', {}, '{"a": NaN}'),
        ("[1]", {}, "[1]"),
        ([1], {}, "[1]"),
        ("[" * 10_000, {}, "[" * 10_000),
    ],
)
def test_arguments(arguments: Any, parsed: dict[str, Any], unparsed: str | None) -> None:
    metadata = None if unparsed is None else {"llmproxy": {"arguments": unparsed}}
    assert call_part("f", arguments, "", Notes()) == ToolCallPart("f", parsed, None, provider_metadata=metadata)


def test_metadata_is_kept_beside() -> None:
    part = call_part("f", "[", "c", Notes(), metadata={"openai": {"x": 1}}, server_executed=True)
    assert part.provider_metadata == {"openai": {"x": 1}, "llmproxy": {"arguments": "["}}
    assert part.server_executed


def test_custom_call() -> None:
    part = custom_call_part("f", "print(1)", "c", metadata={"x": 1})
    metadata = {"openai": {"type": "custom_tool_call", "x": 1}}
    assert part == ToolCallPart("f", {"input": "print(1)"}, "c", provider_metadata=metadata)
