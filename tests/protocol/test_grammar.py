"""The reply's grammar, as xgrammar reads it, against the encoder and the strict parser."""

import json
import random

import pytest

from dsv4.protocol import ProtocolError, encode_messages, parse_message, reply_grammar
from dsv4.protocol import constants as c
from dsv4.protocol.schema import LARGEST, bounded

xgrammar = pytest.importorskip("xgrammar")
testing = pytest.importorskip("xgrammar.testing")

POINT = {"type": "object", "properties": {"z": {"type": "number"}}, "required": ["z"]}
PROPERTIES = {
    "a": {"type": "string"},
    "n": {"type": "integer"},
    "o": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "e": {"enum": ["x", "y", 3]},
    "r": {"$ref": "#/$defs/P"},
}
SCHEMAS = {
    "f": {"type": "object", "properties": PROPERTIES, "required": ["a"], "$defs": {"P": POINT}},
    "g": {"type": "object", "properties": {"p": {"type": "boolean"}, "q": {}}},
    "h": {"type": "object"},
    "k": None,
}
TOOLS = [
    {"type": "function", "function": {"name": name} | ({"parameters": s} if s else {})}
    for name, s in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "g"}}


def accepts(text, *options, **more):
    compiled = compile_grammar(*options, **more)
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_terminated()


PIECES = [bytes([i]) for i in range(256)]
PIECES += [piece.encode() for piece in (c.DSML, "</", "invoke", "parameter", "tool_calls", "name=")]
TOKENS = xgrammar.TokenizerInfo([*PIECES, b""], stop_token_ids=[len(PIECES)])


def compile_grammar(*options, tools=TOOLS, **more):
    grammar = xgrammar.Grammar.from_structural_tag(reply_grammar(tools, *options, **more))
    return xgrammar.GrammarCompiler(TOKENS, max_threads=1).compile_grammar(grammar)


def reply(calls, content="", reasoning="", mode="chat"):
    called = [{"function": {"name": name, "arguments": given}} for name, given in calls]
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    message |= {"tool_calls": called, "wo_eos": True}
    return encode_messages([message], mode, context=[{"role": "user", "content": ""}])


GOOD = [
    [("f", {"a": "ls 2>&1"})],
    [("f", {"a": "", "n": 3, "o": None, "e": "x", "r": {"z": 1.5}})],
    [("f", {"a": "é", "o": "text", "e": 3})],
    [("g", {}), ("g", {"q": [1, "b"]}), ("k", {})],
    [("g", {"p": True, "q": "any"})],
    [("h", {"any": 1, "b": "2"})],
]
BAD = [
    [("f", {"n": 1})],
    [("f", {"a": 1})],
    [("f", {"a": "x", "n": "1"})],
    [("f", {"a": "x", "e": "z"})],
    [("f", {"a": "x", "r": {}})],
    [("f", {"a": "x", "b": 1})],
    [("g", {"p": 1})],
    [("z", {})],
]


def test_what_the_encoder_writes_is_accepted_and_nothing_else_about_it():
    for calls in GOOD:
        assert accepts(reply(calls, "a < b\n\n<"), "auto"), calls
        assert accepts(reply(calls), "required")
        assert accepts(reply(calls, "x", "r", "thinking"), "auto", thinking_mode="thinking")
    for calls in BAD:
        assert not accepts(reply(calls), "auto"), calls
    text = reply(GOOD[0])
    for damaged in (
        text[:-1],
        text.replace("\n\n<", "\n<"),
        text + "x",
        text.replace(" string", ""),
    ):
        assert not accepts(damaged, "required")


def test_the_choice_of_tool():
    plain = reply([], "Hello")
    assert accepts(plain, "auto") and accepts(plain, "none")
    assert not accepts(plain, "required") and not accepts(plain, NAMED)
    assert not accepts(reply(GOOD[0]), "none") and not accepts(reply(GOOD[0]), NAMED)
    assert accepts(reply(GOOD[4]), NAMED)
    assert not accepts(reply(GOOD[3]), "auto", parallel_tool_calls=False)
    assert accepts(reply(GOOD[4]), "auto", parallel_tool_calls=False)
    assert not accepts(f"a{c.END_THINK}b{c.END_THINK}", thinking_mode="thinking")
    for choice in ({"function": {"name": "z"}}, "some", {}):
        with pytest.raises(ProtocolError, match="tool_choice"):
            reply_grammar(TOOLS, choice)
    with pytest.raises(ProtocolError, match="no tools"):
        reply_grammar([], "required")
    with pytest.raises(ProtocolError, match=r"tools\[0\].function"):
        reply_grammar([{"name": "f"}])


def test_whatever_the_grammar_lets_through_is_a_well_formed_call():
    tools = [tool for tool in TOOLS if tool["function"]["name"] != "h"]  # h may repeat a name
    compiled, rng = compile_grammar("required", tools=tools), random.Random(5)
    bitmask = xgrammar.allocate_token_bitmask(1, TOKENS.vocab_size)
    finished = 0
    for _ in range(60):
        matcher = xgrammar.GrammarMatcher(compiled)
        out = b""
        for _ in range(600):
            matcher.fill_next_token_bitmask(bitmask)
            words = bitmask[0].tolist()
            allowed = [i for i in range(TOKENS.vocab_size) if words[i // 32] >> (i % 32) & 1]
            ends = [i for i in allowed if i >= len(PIECES) or PIECES[i] in (b"</", b"}", b'"')]
            chosen = rng.choice(ends if ends and rng.random() < 0.7 else allowed)
            assert matcher.accept_token(chosen)
            if chosen == len(PIECES):
                finished += 1
                check(out.decode("utf-8", "replace"))
                break
            out += PIECES[chosen]
    assert finished > 20


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ({}, ("0", "-7", str(LARGEST), str(-LARGEST)), (str(LARGEST + 1), "1" * 30)),
        ({"minimum": 3}, ("3", str(LARGEST)), ("2", "1" * 30)),
        ({"exclusiveMaximum": 3}, ("2", str(-LARGEST)), ("3", "-" + "1" * 30)),
        ({"enum": [12, 7]}, ("7",), ("1", "8")),
    ],
)
def test_integers_end(limits, good, bad):
    schema = {"type": "array", "items": {"type": "integer", **limits}}
    deep = {"type": "object", "properties": {"a": {"type": "integer", **limits}, "b": schema}}
    tools = [{"type": "function", "function": {"name": "n", "parameters": deep}}]
    for number in (*good, *bad):
        for given in ({"a": int(number)}, {"b": [int(number)]}):
            text = reply([("n", given)])
            assert accepts(text, "required", tools=tools) is (number in good), text


def test_limits_beyond_exact_integers_and_multiples_are_left():
    for schema in (
        {"type": "integer", "minimum": 2**60},
        {"type": "integer", "multipleOf": 7},
        {"type": "number"},
        {"enum": [1]},
        True,
    ):
        assert bounded(schema) == schema
    assert bounded({"type": "integer", "multipleOf": 2000})["maximum"] == LARGEST


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "minItems": 2}, ([1, {"a": 1}], [1, 2, 3]), ([], [1])),
        ({"type": "array", "maxItems": 1}, ([], ["x"]), ([1, 2],)),
        ({"type": ["array", "null"], "minItems": 1}, ([None], None), ([], {})),
        ({"type": "object", "required": ["a"]}, ({"a": [1]},), ({}, {"b": 1})),
        (
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["a"]},
            ({"b": None, "a": 1}, {"a": 1}),
            ({"b": None}, {}),
        ),
        (
            {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"}},
            ({"a": None},),
            ({"a": 1}, {}),
        ),
        ({"type": "object", "minProperties": 1}, ({"x": 1}, {"x": 1, "y": {}}), ({},)),
        ({"type": "object", "maxProperties": 1}, ({}, {"x": 1}), ({"x": 1, "y": 2},)),
    ],
)
def test_what_a_schema_allows_without_a_word(schema, good, bad):
    whole = bounded({"type": "object", "properties": {"v": schema}, "required": ["v"]})
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": whole}}
    grammar = xgrammar.Grammar.from_structural_tag(tag)
    for value in (*good, *bad):
        text = json.dumps({"v": value})
        assert testing._is_grammar_accept_string(grammar, text) is (value in good), text


def test_a_name_that_is_required_and_not_allowed():
    with pytest.raises(ProtocolError, match="'a' is no property, and no other is allowed"):
        bounded({"type": "object", "required": ["a"], "additionalProperties": False})


@pytest.mark.parametrize("step", [2, 7, 60])
def test_multiples(step):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": step}}}
    tools = [{"type": "function", "function": {"name": "n", "parameters": schema}}]
    for value in (0, step, -step, 12 * step, step + 1, 12 * step - 1):
        text = reply([("n", {"a": value})])
        assert accepts(text, "required", tools=tools) is (value % step == 0), text


def check(text):
    for call in parse_message(text, "chat")["tool_calls"]:
        schema = SCHEMAS[call["function"]["name"]] or {}
        given = json.loads(call["function"]["arguments"])
        assert set(schema.get("required", ())) <= set(given)
        assert not schema.get("properties") or set(given) <= set(schema["properties"])
