"""How deep a schema lets JSON be, and the white space that this needs."""

import pytest

from dsv4.engine.indent import WIDEST, most_blanks

INTEGER = {"type": "integer"}
TREE = {"type": "object", "properties": {"left": {"$ref": "#"}, "value": INTEGER}}
NAMED = {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "array", "items": INTEGER}}}


@pytest.mark.parametrize(
    ("schema", "levels"),
    [
        (INTEGER, 0),
        ({"type": ["string", "null"]}, 0),
        ({"enum": ["red", [1, {"a": 2}], {}]}, 2),
        ({"const": {"a": {"b": [1]}}}, 3),
        ({"type": "object", "properties": {"a": INTEGER}}, 1),
        ({"type": "object", "properties": {"a": {"type": "array", "items": INTEGER}}}, 2),
        ({"type": "array", "prefixItems": [INTEGER, {"enum": [[1]]}], "items": False}, 2),
        ({"anyOf": [INTEGER, {"type": "array", "items": INTEGER}]}, 1),
        ({"type": "object", "additionalProperties": INTEGER}, 1),
        (NAMED, 1),
    ],
)
def test_bounded(schema, levels):
    assert most_blanks(schema) == 2 + 4 * levels


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "object"},
        {"type": ["array", "null"]},
        {"type": "object", "properties": {"a": {}}},
        {"type": "array", "items": True},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema"},
        TREE,
    ],
)
def test_without_a_bound(schema):
    assert most_blanks(schema) == WIDEST


def test_a_schema_of_hundreds_of_levels_has_the_widest():
    schema = INTEGER
    for _ in range(60):
        schema = {"type": "array", "items": schema}
    assert most_blanks(schema) == WIDEST
