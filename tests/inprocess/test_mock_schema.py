"""Values made up from JSON schemas."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.inprocess.mock_schema import example_of

NODE = {"$ref": "#/$defs/Node"}


def node(next_: Any, *required: str) -> dict[str, Any]:
    properties = {"value": {"type": "integer"}, "next": next_}
    return {**NODE, "$defs": {"Node": {"type": "object", "properties": properties, "required": list(required)}}}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({}, "text"),
        ({"type": "string", "minLength": 6}, "texttt"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": ["null", "string"]}, None),
        ({"type": "boolean"}, True),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 2.5, "multipleOf": 4}, 4),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "exclusiveMinimum": True, "minimum": 10**400}, 1),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": {"x": 1}}, {"x": 1}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"allOf": [{"properties": {"a": {"const": 1}}}], "properties": {"b": {"const": 2}}}, {"a": 1, "b": 2}),
        ({"allOf": [{"type": "integer"}]}, 1),
        ({"type": "object"}, {}),
        ({"properties": {"a": True, "b": {"type": "array"}}}, {"a": "text", "b": ["text"]}),
        ({"type": "array", "minItems": 2, "items": {"type": "boolean"}}, [True, True]),
        ({"type": "array", "prefixItems": [{"type": "null"}]}, [None]),
        ({"type": "array", "maxItems": 0}, []),
        (node({"anyOf": [NODE, {"type": "null"}]}, "next"), {"value": 1, "next": None}),
        (node({"type": "array", "items": NODE}, "next"), {"value": 1, "next": []}),
        (node(NODE), {"value": 1}),
        (node(NODE, "next"), None),
        (node({"type": "array", "items": NODE, "minItems": 1}, "next"), None),
        ({"$ref": "#/a~1b", "a/b": {"const": 5}}, 5),
        ({"$ref": "https://example.com/schema"}, "text"),
        ({"anyOf": [{"$ref": "#"}]}, None),
    ],
)
def test_examples(schema: dict[str, Any], example: Any) -> None:
    assert example_of(schema) == example


KEYWORDS = """type properties items enum const anyOf oneOf allOf $ref required minItems maxItems prefixItems minimum
maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength format $defs""".split()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = SCALARS | st.sampled_from(["object", "array", "string", "integer", "number", "#", "#/$defs", "#/properties/a"])
SCHEMAS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), SCHEMAS))
def test_no_schema_breaks_it(schema: dict[str, Any]) -> None:
    json.dumps(example_of(schema))
