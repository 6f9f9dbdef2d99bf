"""Reading completions: the layout and its departures, and every way of cutting a text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.protocol import constants as c
from dsv4.protocol.deltas import CallArguments, Content, Reasoning, message_of
from dsv4.protocol.encode import encode_messages
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.stream import (
    StreamParser,
    parse_message,
    parse_message_from_completion_text,
)

CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="a" string="true">ls 2>&1</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="b" string="false">[1, "é"]</｜DSML｜parameter>\n'
    '</｜DSML｜invoke>\n<｜DSML｜invoke name="g">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
WHOLE = f"I think.\n{c.END_THINK}Well < then\n{CALL}{c.EOS}"
MESSAGE = {
    "role": "assistant",
    "content": "Well < then\n",
    "reasoning_content": "I think.\n",
    "tool_calls": [
        {
            "type": "function",
            "function": {"name": "f", "arguments": '{"a": "ls 2>&1", "b": [1, "é"]}'},
        },
        {"type": "function", "function": {"name": "g", "arguments": "{}"}},
    ],
}


def streamed(text, mode, cuts):
    parser, deltas, last = StreamParser(mode), [], 0
    for cut in [*sorted(cuts), len(text)]:
        deltas += parser.feed(text[last:cut])
        last = cut
    message = parser.finish()
    assert message_of(deltas) == message
    return message


def test_a_whole_completion():
    assert parse_message(WHOLE, "thinking") == MESSAGE
    assert parse_message_from_completion_text(WHOLE, "thinking") == MESSAGE
    assert parse_message(CALL, "chat")["tool_calls"] == MESSAGE["tool_calls"]  # EOS may be missing


def test_every_single_cut_and_every_character_alone():
    for cut in range(len(WHOLE)):
        assert streamed(WHOLE, "thinking", [cut]) == MESSAGE
    assert streamed(WHOLE, "thinking", range(len(WHOLE))) == MESSAGE


def test_text_comes_as_soon_as_it_is_certain():
    parser = StreamParser("thinking")
    assert parser.feed("abc<") == [Reasoning("abc")]
    assert parser.feed("b") == [Reasoning("<b")]
    assert parser.feed("</thi") == [] and parser.feed("nk>x\n\n<｜DS") == [Content("x")]
    assert parser.feed("x") == [Content("\n\n<｜DSx")]
    parser = StreamParser("chat")
    parser.feed(CALL[: CALL.index("ls 2")])
    assert parser.feed("ls 2>&1</｜DS") == [CallArguments(0, "ls 2>&1")]


BAD = {
    "no end of reasoning": ("thinking", f"x{c.EOS}"),
    "no EOS": ("chat", "x"),
    "text after EOS": ("chat", f"x{c.EOS}y"),
    "text after calls": ("chat", f"{CALL}y{c.EOS}"),
    "line after calls": ("chat", f"{CALL}\n"),
    "BOS": ("chat", f"x{c.BOS}{c.EOS}"),
    "think": ("chat", f"x{c.THINK}{c.EOS}"),
    "second end of reasoning": ("thinking", f"x{c.END_THINK}y{c.END_THINK}{c.EOS}"),
    "markup in content": ("chat", f"x<｜DSML｜tool_calls>{c.EOS}"),
    "calls in reasoning": ("thinking", f"x{CALL}{c.END_THINK}{c.EOS}"),
    "twice the same": ("chat", CALL.replace('name="b"', 'name="a"') + c.EOS),
    "no string attribute": ("chat", CALL.replace(' string="true"', "") + c.EOS),
    "no name": ("chat", CALL.replace(' name="f"', "") + c.EOS),
    "no line end": ("chat", CALL.replace("parameter>\n", "parameter>") + c.EOS),
    "no end of invoke": ("chat", CALL.replace("</｜DSML｜invoke>\n", "") + c.EOS),
    "no end of block": ("chat", CALL.removesuffix("</｜DSML｜tool_calls>") + c.EOS),
}


@pytest.mark.parametrize("name", BAD)
def test_departures_are_refused(name):
    mode, text = BAD[name]
    for parse in (parse_message, parse_message_from_completion_text):
        with pytest.raises(ProtocolError):
            parse(text, mode)


def test_every_truncation_is_refused():
    for size in range(WHOLE.index("</｜DSML｜tool_calls>") + len("</｜DSML｜tool_calls>")):
        with pytest.raises(ProtocolError):
            parse_message_from_completion_text(WHOLE[:size], "thinking")


def test_strict_is_stricter_in_two_points():
    bare = CALL.replace('[1, "é"]', "soon") + c.EOS
    role = f"x{c.USER}{c.EOS}"
    for text in (bare, role):
        assert parse_message_from_completion_text(text, "chat")["role"] == "assistant"
        with pytest.raises(ProtocolError):
            parse_message(text, "chat")


PLAIN = st.text(st.sampled_from(list('ab <>/\n｜"{}:é\\|DSML'))).filter(
    lambda text: not any(word in text for word in c.CONTROL)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | PLAIN, lambda inner: st.lists(inner, max_size=3)
)
NAMES = st.text(st.sampled_from("abc_é-"), min_size=1, max_size=6)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=3)), max_size=3)


@given(PLAIN, PLAIN, CALLS, st.sampled_from(["chat", "thinking"]), st.data())
def test_what_was_encoded_is_read_back_however_it_is_cut(reasoning, content, calls, mode, data):
    message = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning if mode == "thinking" else "",
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given, ensure_ascii=False)},
            }
            for name, given in calls
        ],
    }
    prompt = [{"role": "user", "content": ""}]
    text = encode_messages([message], mode, context=prompt)
    assert parse_message_from_completion_text(text, mode) == message
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert streamed(text, mode, cuts) == message
