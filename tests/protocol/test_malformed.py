"""Malformed requests: every function returns or raises ProtocolError, which names the place."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.protocol import (
    ProtocolError,
    StreamParser,
    encode_messages,
    encode_segments,
    from_anthropic,
    from_openai,
    from_responses,
    quick_instruction,
    reply_grammar,
    resolve_effort,
    validate,
)

USER = {"role": "user", "content": "q"}
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "enum": ["x", 3]},
        "b": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]},
        "c": {"type": ["string", "null"]},
        "d": {"$ref": "#/definitions/B"},
        "e": {"const": "y"},
    },
    "required": ["a"],
    "$defs": {"A": {"$ref": "#/definitions/B"}},
    "definitions": {"B": {"oneOf": [{"$ref": "#/$defs/A"}, {"type": "integer"}]}},  # a circle
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
MESSAGES = [
    {"role": "system", "content": "s", "tools": TOOLS, "response_format": {"type": "object"}},
    {"role": "user", "content": [{"type": "text", "text": "q"}], "task": "action"},
    {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "image"}]},
    {"role": "tool", "tool_call_id": "1", "content": "r"},
    {"role": "developer", "content": "d"},
    {"role": "assistant", "content": "x", "wo_eos": True},
    {"role": "latest_reminder", "content": "l"},
    USER,
]
USES = {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}
RETURNS = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]}
ANTHROPIC = {
    "messages": [
        USER,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, USES]},
        {"role": "user", "content": [RETURNS, {"type": "text", "text": "t"}]},
    ],
    "system": [{"type": "text", "text": "s"}],
    "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
}
OPENAI = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "json"}], "tools": TOOLS},
        {"role": "developer", "content": "d"},
        USER,
        {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "image_url"}]},
        {"role": "latest_reminder", "content": "l"},
    ],
    "tools": [{"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    "reasoning_effort": "none",
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
}
RESPONSES = {
    "instructions": "i",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
    ],
    "tools": [
        {"type": "function", "name": "f", "parameters": SCHEMA},
        {
            "type": "namespace",
            "name": "n",
            "tools": [{"type": "function", "name": "g", "parameters": {"type": "object"}}],
        },
        {"type": "custom", "name": "apply_patch", "format": {"definition": "d"}},
    ],
    "tool_choice": {"type": "custom", "name": "apply_patch"},
    "reasoning": {"effort": "none", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
}
NAMED = {"type": "function", "function": {"name": "f"}}


def read(tools, tool_choice):
    StreamParser("chat", "tolerant", tools, tool_choice).feed("x")


# name: (function, arguments that it takes)
FUNCTIONS = {
    "encode": (
        encode_messages,
        {
            "messages": MESSAGES,
            "thinking_mode": "thinking",
            "context": MESSAGES,
            "reasoning_effort": "max",
            "revision": "2026-04",
        },
    ),
    "segments": (encode_segments, {"messages": MESSAGES, "thinking_mode": "chat"}),
    "validate": (validate, {"messages": MESSAGES}),
    "openai": (from_openai, {"body": OPENAI}),
    "anthropic": (from_anthropic, {"body": ANTHROPIC}),
    "responses": (from_responses, {"body": RESPONSES}),
    "grammar": (reply_grammar, {"tools": TOOLS, "tool_choice": NAMED, "thinking_mode": "chat"}),
    "stream": (read, {"tools": TOOLS, "tool_choice": NAMED}),
    "quick": (
        quick_instruction,
        {"messages": MESSAGES, "task": "query", "thinking_mode": "thinking"},
    ),
    "effort": (resolve_effort, {"word": "high", "revision": "2026-04"}),
}


def paths(value, at=()):
    """Every place inside of `value`."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield (*at, key)
        yield from paths(value[key], (*at, key))


def replaced(value, path, new):
    """A copy with another value in one place; `...`: with nothing there."""
    out = copy.deepcopy(value)
    inner = out
    for key in path[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return out


def answers(function, given):
    """Whether it accepts; anything but ProtocolError passes through."""
    try:
        function(**given)
    except ProtocolError as error:
        assert str(error)
        return False
    return True


JUNK = (..., None, True, 3, 1.5, "", "x", '"', "\ud800", [], ["x"], [[]], [None], {}, {"x": {}})
JUNK += ({"$ref": "#"}, {"type": "text"}, {"function": {}}, [{"type": "text"}], [{"role": "user"}])
JUNK += (float("nan"), float("inf"), -1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_junk_in_any_one_place_is_read_or_refused(name):
    function, arguments = FUNCTIONS[name]
    assert answers(function, arguments)
    outcomes = [
        answers(function, replaced(arguments, path, junk))
        for path in paths(arguments)
        for junk in JUNK
        if junk is not ... or len(path) > 1  # an argument that is left out is Python's to refuse
    ]
    assert not all(outcomes)


FIELDS = ("role", "content", "tools", "tool_calls", "function", "name", "arguments", "parameters")
FIELDS += ("properties", "type", "text", "id", "task", "response_format", "enum", "$ref", "x")
WORDS = ("user", "assistant", "tool", "developer", "text", "function", "f", "query", "#/$defs/x")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.data())
def test_any_json_is_read_or_refused(data):
    for function, arguments in FUNCTIONS.values():
        chosen = data.draw(st.sampled_from(list(arguments)))
        answers(function, arguments | {chosen: data.draw(JSON)})


def deep(depth):
    out = {}
    for _ in range(depth):
        out = {"a": out}
    return out


def tool(**schema):
    return [{"function": {"name": "f", "parameters": {"properties": {"a": schema}}}}]


SYSTEM = {"role": "system", "content": ""}
PARAMETER = "tools[0].function.parameters.properties.a"
PLACES = [
    ("messages[1].tool_calls = 3", encode_messages, [USER, {"role": "assistant", "tool_calls": 3}]),
    ("messages[0].tools = 'x'", encode_messages, [SYSTEM | {"tools": "x"}]),
    ("messages[0].tools[1]: has no", encode_messages, [SYSTEM | {"tools": [*TOOLS, {}]}]),
    ("messages[0].task = 3", encode_messages, [USER | {"task": 3}]),
    ("messages[0].tool_call_id = []", encode_messages, [{"role": "tool", "tool_call_id": []}]),
    (
        "messages[0].reasoning_content = 3",
        encode_messages,
        [{"role": "assistant", "reasoning_content": 3}],
    ),
    ("messages[0].content[1] = 'x'", encode_messages, [SYSTEM | {"content": [{}, "x"]}]),
    (
        "messages[0].content[0] = {'text': 3}",
        encode_messages,
        [SYSTEM | {"content": [{"text": 3}]}],
    ),
    (
        "messages[0].response_format: cannot be written",
        encode_messages,
        [SYSTEM | {"response_format": {1j}}],
    ),
    (
        "messages[0].tools[0].function: cannot be written",
        encode_messages,
        [SYSTEM | {"tools": [{"function": deep(10**5)}]}],
    ),
    (
        "messages[0].tool_calls[0].function.arguments: cannot",
        encode_messages,
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {1j}}}]}],
    ),
    ("messages: must be a list", encode_messages, {"role": "user"}),
    (
        "messages[0].tools[0].function.parameters = 'x'",
        validate,
        [SYSTEM | {"tools": [{"function": {"name": "f", "parameters": "x"}}]}],
    ),
    ("tools: must be a list", reply_grammar, {"f": 1}),
    ("tools[1].function = None", reply_grammar, [*TOOLS, {}]),
    ("tools[0].function.name = ''", reply_grammar, [{"function": {"name": ""}}]),
    (
        "tools[0].function.parameters = []",
        reply_grammar,
        [{"function": {"name": "f", "parameters": []}}],
    ),
    (
        "tools[0].function.parameters.required = 'a'",
        reply_grammar,
        [{"function": {"name": "f", "parameters": {"properties": {"a": {}}, "required": "a"}}}],
    ),
    (f"{PARAMETER}.enum = 'x'", reply_grammar, tool(enum="x")),
    (f"{PARAMETER}.type = 'text'", reply_grammar, tool(type="text")),
    (f"{PARAMETER}.type = [{{}}]", reply_grammar, tool(type=[{}])),
    (f"{PARAMETER}.anyOf = 3", reply_grammar, tool(anyOf=3)),
    (f"{PARAMETER}.$ref = '#'", reply_grammar, tool(**{"$ref": "#"})),
    (f"{PARAMETER}.$ref = '#/$defs/A'", reply_grammar, tool(**{"$ref": "#/$defs/A"})),
    (
        "tools[0].function.parameters.properties: 'a\"b'",
        reply_grammar,
        [{"function": {"name": "f", "parameters": {"properties": {'a"b': {}}}}}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("place", "function", "given"), PLACES, ids=[p for p, *_ in PLACES])
def test_errors_begin_with_the_place(place, function, given):
    more = ("chat",) if function is encode_messages else ()
    with pytest.raises(ProtocolError) as error:
        function(given, *more)
    assert str(error.value).startswith(place)
