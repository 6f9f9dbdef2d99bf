"""Which schemas are none, with the keyword's path, and what strict tools make of theirs."""

import pytest

from dsv4.protocol import RequestError, RequestOptions, from_openai
from dsv4.protocol import constants as c
from dsv4.protocol.requests.schema import check_schema
from dsv4.protocol.requests.strict_schema import strict_schema

GOOD = [
    *(True, {}, {"type": ["string", "null"]}, {"unknown": object}, {"minLength": 2.0}),
    {"properties": {"a": {"$ref": "#/$defs/A~1B"}}, "$defs": {"A/B": {"not": False}}},
    {"$ref": "#"},
    {"pattern": r"^\p{L}(?<name>x)$", "patternProperties": {"^a": {}}},
    {"prefixItems": [{}], "items": False, "enum": [1, "x", None], "const": {}, "default": []},
    {"dependentRequired": {"a": ["b"]}, "if": {}, "then": True, "else": {}},
]
BAD = [
    ("s: must be", 3),
    ("s: must be", []),
    ("s.type: must be", {"type": "strin"}),
    ("s.type: must be", {"type": []}),
    ("s.type: names something twice", {"type": ["null", "null"]}),
    ("s.properties: must be", {"properties": 3}),
    ("s.properties.a.items.type: must be", {"properties": {"a": {"items": {"type": 3}}}}),
    ("s.anyOf: must be", {"anyOf": []}),
    ("s.allOf[1]: must be", {"allOf": [{}, 3]}),
    ("s.required: must be", {"required": "a"}),
    ("s.required: names something twice", {"required": ["a", "a"]}),
    ("s.minLength: must be", {"minLength": -1}),
    ("s.maxItems: must be", {"maxItems": 1.5}),
    ("s.minimum: must be", {"minimum": "1"}),
    ("s.multipleOf: must be", {"multipleOf": 0}),
    ("s.uniqueItems: must be", {"uniqueItems": 1}),
    ("s.enum: must be", {"enum": "x"}),
    ("s.description: must be", {"description": 3}),
    ("s.pattern: '(' is no regular expression", {"pattern": "("}),
    ("s.$ref: 'http://x' is outside", {"$ref": "http://x"}),
    ("s.$ref: '#/$defs/a' does not exist", {"$ref": "#/$defs/a"}),
    ("s.dependentRequired.a: must be", {"dependentRequired": {"a": 3}}),
]


@pytest.mark.parametrize("schema", GOOD, ids=str)
def test_schemas(schema):
    check_schema(schema, "s")


@pytest.mark.parametrize(("place", "schema"), BAD, ids=str)
def test_what_is_no_schema(place, schema):
    with pytest.raises(RequestError) as error:
        check_schema(schema, "s")
    assert str(error.value).startswith(place)


def test_a_schema_may_be_deep_but_not_endless():
    schema = {}
    for _ in range(500):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="deeper than 127"):
        check_schema(schema, "s")
    strict = properties(a={"type": "null"})
    for _ in range(500):
        strict = properties(a=strict)
    with pytest.raises(RequestError, match="nested too deeply"):
        strict_schema(strict, "s")


def properties(**inner):
    return {"type": "object", "properties": inner}


def test_a_strict_schema_keeps_what_can_be_enforced():
    given = properties(
        a={"type": "string", "minLength": 2, "title": "T", "format": "uuid", "description": "d"},
        b={"type": "array", "items": {"type": "integer", "maximum": 3}, "minItems": 1},
        c={"anyOf": [{"type": "null"}, {"$ref": "#/$def/A"}]},
    ) | {"$def": {"A": properties(x={"type": ["boolean", "null"]})}, "title": "T"}
    inner = {"x": {"type": ["boolean", "null"]}}
    closed = {"additionalProperties": False}
    assert strict_schema(given, "s") == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "d", "format": "uuid"},
            "b": {"type": "array", "items": {"type": "integer", "maximum": 3}},
            "c": {"anyOf": [{"type": "null"}, {"$ref": "#/$def/A"}]},
        },
        **closed,
        "required": ["a", "b", "c"],
        "$def": {"A": {"type": "object", "properties": inner, **closed, "required": ["x"]}},
    }
    assert strict_schema(None, "s") == {
        "type": "object",
        "properties": {},
        **closed,
        "required": [],
    }


LOOSE = [
    ("s: The top level", {"type": "string"}),
    ("s: Invalid tool parameters schema : one of", {}),
    ("s.properties.a: Invalid tool parameters schema", properties(a={})),
    ("s.properties.a.format: Invalid tool", properties(a={"type": "string", "format": "date"})),
    ("s.properties.a.items: is missing", properties(a={"type": "array"})),
    ("s.properties.a: An object with no", properties(a={"type": "object"})),
    ("s.properties.a.type: must be", properties(a={"type": ["object"]})),
    ("s.properties.a.minimum: must be", properties(a={"type": "integer", "minimum": 1.5})),
    ("s.required: a strict object requires", properties(a={"type": "null"}) | {"required": []}),
    ("s.required[0]: 'b' is no property", properties(a={"type": "null"}) | {"required": ["b"]}),
    ("s.required[1]: repeats 'a'", properties(a={"type": "null"}) | {"required": ["a", "a"]}),
    ("s.additionalProperties: must not", {"type": "object", "additionalProperties": True}),
]


@pytest.mark.parametrize(("place", "schema"), LOOSE, ids=str)
def test_what_no_strict_tool_may_have(place, schema):
    with pytest.raises(RequestError) as error:
        strict_schema(schema, "s")
    assert str(error.value).startswith(place)


def test_a_strict_reply_is_held_to_the_whole_schema():
    """Also to what the prompt does not show: enum of numbers, and models inside of models."""
    xgrammar = pytest.importorskip("xgrammar")
    testing = pytest.importorskip("xgrammar.testing")
    point = {"type": "object", "properties": {"k": {"type": "integer", "enum": [1, 22]}}}
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "enum": [7]}, "p": {"$ref": "#/$defs/P"}},
        "required": ["n", "p"],
        "$defs": {"P": point | {"required": ["k"]}},
    }
    said = [{"role": "user", "content": "x"}]
    form = {"name": "s", "strict": True, "schema": schema}
    tool = {"name": "s", "strict": True, "parameters": schema}
    off = {"messages": said, "thinking": {"type": "disabled"}}
    answer = from_openai({**off, "response_format": {"type": "json_schema", "json_schema": form}})
    call = from_openai(
        {**off, "tools": [{"type": "function", "function": tool}], "tool_choice": "required"},
        RequestOptions(think_then_call=True),
    )
    assert '"$defs":' not in answer.constraint.text() + call.constraint.text()

    def accepts(request, text):
        grammar = xgrammar.Grammar.from_structural_tag(request.grammar())
        return testing._is_grammar_accept_string(grammar, text)

    def called(n, p):
        return (
            f'<{c.DSML}invoke name="s">\n<{c.DSML}parameter name="n" string="false">{n}'
            f'</{c.DSML}parameter>\n<{c.DSML}parameter name="p" string="false">{p}'
            f"</{c.DSML}parameter>\n</{c.DSML}invoke>\n</{c.DSML}tool_calls>"
        )

    for n, p, good in (
        (7, '{"k": 22}', True),
        (8, '{"k": 22}', False),
        (7, '{"k": 3}', False),
        (7, "{}", False),
        (7, '{"k": 1, "l": 1}', False),
    ):
        assert accepts(answer, f'{{"n": {n}, "p": {p}}}') is good
        assert accepts(call, called(n, p)) is good
