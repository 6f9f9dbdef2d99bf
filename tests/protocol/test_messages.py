"""The typed layer: what it refuses, with the place, and the words of effort."""

import pytest

from dsv4.protocol import ProtocolError, encode_messages, validate
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
