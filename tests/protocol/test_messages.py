"""The typed layer: what it refuses, with the place, and what other clients' messages become."""

import pytest

from dsv4.protocol import ProtocolError, encode_messages, from_anthropic, from_openai, validate
from dsv4.protocol import constants as c
from dsv4.protocol.effort import EFFORT_WORDS, resolve_effort

USER = {"role": "user", "content": "q"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAYS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TEXT = {"type": "text", "text": "r"}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "r"}

BAD = [
    ("messages: must be a list", "hello"),
    ("messages: must be a list", {"role": "user"}),
    ("messages[0] = 'x'", ["x"]),
    ("messages[1].role = 'root'", [USER, {"role": "root", "content": "x"}]),
    ("messages[0].content = None", [{"role": "user"}]),
    ("messages[0].content = 3", [{"role": "system", "content": 3}]),
    ("messages[0].content[1] = 'x'", [{"role": "user", "content": [{"type": "image"}, "x"]}]),
    ("messages[0].content[0].text = None", [{"role": "user", "content": [{"type": "text"}]}]),
    ("messages[0].content: a developer", [{"role": "developer", "content": ""}]),
    ("messages[0].tools: belongs to system or developer", [USER | {"tools": [TOOL]}]),
    ("messages[0].tool_calls: belongs to assistant", [USER | {"tool_calls": [CALL]}]),
    ("messages[0].reasoning_content = 3", [{"role": "assistant", "reasoning_content": 3}]),
    ("messages[0].wo_eos = 'no'", [{"role": "assistant", "wo_eos": "no"}]),
    ("messages[0].tool_calls = 'f'", [{"role": "assistant", "tool_calls": "f"}]),
    ("messages[0].tool_calls[0].function = None", [{"role": "assistant", "tool_calls": [{}]}]),
    (
        "messages[0].tool_calls[1].function.name = None",
        [{"role": "assistant", "tool_calls": [CALL, {"function": {}}]}],
    ),
    (
        "messages[0].tool_calls[0].function.arguments = 3",
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}],
    ),
    (
        "messages[0].tool_calls[0].id = 3",
        [{"role": "assistant", "tool_calls": [CALL | {"id": 3}]}],
    ),
    (
        "messages[0].tools[0].function.name = 'a\"b'",
        [{"role": "system", "content": "", "tools": [{"function": {"name": 'a"b'}}]}],
    ),
    ("messages[0].task = 'sing'", [USER | {"task": "sing"}]),
    ("messages[1].task: the message joins the turn", [USER, USER | {"task": "query"}]),
    ("messages[3].task", [USER, SAYS, RESULT, USER | {"task": "query"}]),
    ("messages[2].task: belongs to", [USER, SAYS, RESULT | {"task": "query"}]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "messages"), BAD, ids=[place for place, _ in BAD])
def test_errors_name_message_and_field(place, messages):
    with pytest.raises(ProtocolError) as error:
        validate(messages)
    assert str(error.value).startswith(place)


def test_good_messages_are_unchanged():
    messages = [
        {"role": "system", "content": "s", "tools": [TOOL], "response_format": {"type": "object"}},
        USER | {"task": "action", "name": "not of the protocol"},
        USER,
        SAYS | {"reasoning_content": "r", "wo_eos": True},
        RESULT,
        USER,
        {"role": "developer", "content": [{"type": "text", "text": "d"}, {"type": "image_url"}]},
        {"role": "latest_reminder", "content": "l"},
    ]
    assert validate(messages) == messages


def test_openai_requests_go_in_unchanged():
    system = {"role": "system", "content": "s", "tools": [TOOL]}
    assert from_openai([USER, {"role": "system", "content": "s"}], [TOOL]) == [USER, system]
    assert from_openai([USER], [TOOL]) == [{"role": "system", "content": "", "tools": [TOOL]}, USER]
    assert from_openai([USER], []) == [USER]
    schema = {"type": "object", "properties": {"a": {}}}
    given = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert from_openai([USER], response_format=given)[0]["response_format"] == schema
    assert from_openai([USER], response_format={"type": "text"}) == [USER]
    said = {"role": "assistant", "content": "a", "reasoning": "why"}
    assert from_openai([said])[0]["reasoning_content"] == "why"
    for bad in (
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 3},
    ):
        with pytest.raises(ProtocolError, match="response_format"):
            from_openai([USER], response_format=bad)
    text = encode_messages(from_openai([USER, SAYS, RESULT], [TOOL]), "chat")
    assert c.TOOLS_BEGIN in text and "<tool_result>r</tool_result>" in text


def test_anthropic_messages_become_the_same_prompt():
    anthropic = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "why", "signature": "x"},
                {"type": "text", "text": "So."},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "2", "content": "r2"},
                {"type": "tool_result", "tool_use_id": "1", "content": [TEXT]},
                {"type": "text", "text": "go on"},
                {"type": "image", "source": {}},
            ],
        },
    ]  # fmt: skip
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": given}}
        for i, given in (("1", '{"a": 1}'), ("2", "{}"))
    ]
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    openai = [
        {"role": "system", "content": "S", "tools": [{"type": "function", "function": function}]},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "So.", "reasoning_content": "why", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "2", "content": "r2"},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "user", "content": [{"type": "text", "text": "go on"}, {"type": "image"}]},
    ]
    for mode in ("chat", "thinking"):
        read = from_anthropic(anthropic, "S", tools)
        assert encode_messages(read, mode) == encode_messages(openai, mode)
    parts = [{"type": "text", "text": "S"}]
    assert from_anthropic(anthropic, parts)[0] == {"role": "system", "content": parts}


@pytest.mark.parametrize(
    ("place", "messages", "tools"),
    [
        ("messages[0].role = 'system'", [{"role": "system", "content": "x"}], None),
        ("messages[0].content = 3", [{"role": "user", "content": 3}], None),
        ("messages[0].content[0].type", [{"role": "assistant", "content": [{"type": "x"}]}], None),
        ("tools[0].input_schema", [USER], [{"name": "web_search"}]),
    ],
)
def test_anthropic_errors(place, messages, tools):
    with pytest.raises(ProtocolError) as error:
        from_anthropic(messages, tools=tools)
    assert str(error.value).startswith(place)


def test_words_of_effort():
    april = [resolve_effort(word) for word in ("minimal", "low", "medium", "high", "xhigh", "max")]
    assert april == [("thinking", "high")] * 4 + [("thinking", "max")] * 2
    july = [resolve_effort(word, "2026-07")[1] for word in EFFORT_WORDS[1:]]
    assert july == ["low", "low", "high", "high", "high", "max", "max"]
    for revision in ("2026-04", "2026-07"):
        assert resolve_effort(None, revision) == ("thinking", None)
        assert resolve_effort("none", revision) == ("chat", None)
        for word in EFFORT_WORDS:
            mode, effort = resolve_effort(word, revision)
            encode_messages([USER], mode, reasoning_effort=effort, revision=revision)
        with pytest.raises(ProtocolError, match="minimal"):
            resolve_effort("huge", revision)
    with pytest.raises(ProtocolError, match="2026-07"):
        resolve_effort("high", "2027")
