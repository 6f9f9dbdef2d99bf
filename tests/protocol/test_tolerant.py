"""Completions as models really write them: each departure has one reading, and no text is lost."""

import json

import pytest

from dsv4.protocol import constants as c
from dsv4.protocol.deltas import CallArguments, CallStart
from dsv4.protocol.errors import ProtocolError
from dsv4.protocol.stream import StreamParser, parse_message

from .replies import (
    CALL,
    CLOSE,
    END_INVOKE,
    END_VALUE,
    INVOKE,
    OPEN,
    OTHER,
    STRING,
    TOOLS,
    A,
    D,
    N,
    read,
    records,
)

F = [("f", '{"a": "ls 2>&1", "n": 12}')]
FA = [("f", '{"a": "ls 2>&1"}')]
SWALLOWED = json.dumps({"a": f"ls\n{OTHER}12"}, ensure_ascii=False)
# name: (completion, content, calls, kinds of errors), in chat mode
WILD = {
    "exact": (f"x{CALL}{c.EOS}", "x", F, []),
    "no EOS after a block": (f"x{CALL}", "x", F, []),
    "no EOS after text": ("Well", "Well", [], ["truncated"]),
    "no blank line": (f"{CALL.strip()}{c.EOS}", "", F, ["layout"]),
    "after text, on its line": (f"So: {CALL.strip()}{c.EOS}", "So: ", F, ["layout"]),
    "after one line end": (f"So:\n{CALL.strip()}{c.EOS}", "So:", F, ["layout"]),
    "after three line ends": (f"So:\n{CALL}{c.EOS}", "So:\n", F, []),
    "space after the block": (f"{CALL}\n {c.EOS}", "", F, ["layout"]),
    "text after the block": (f"x{CALL}\n\nDone.{c.EOS}", "x\n\nDone.", F, ["text_after_calls"]),
    "two blocks": (f"x{CALL}{CALL}{c.EOS}", "x", F + F, ["second_block"]),
    "text between blocks": (
        f"x{CALL}, y{CALL}{c.EOS}",
        "x, y",
        F + F,
        ["text_after_calls", "second_block"],
    ),
    "no start of the block": (f"x\n\n{INVOKE}{A}{END_INVOKE}{CLOSE}", "x", FA, ["missing_start"]),
    "no end of the block": (f"{OPEN}{INVOKE}{A}{END_INVOKE}{c.EOS}", "", FA, ["missing_end"]),
    "no end of the call": (f"{OPEN}{INVOKE}{A}{CLOSE}", "", FA, ["missing_end"]),
    "no end of the call, a second": (
        f"{OPEN}{INVOKE}{A}{INVOKE}{A}{END_INVOKE}{CLOSE}",
        "",
        FA + FA,
        ["missing_end"],
    ),
    "no end of call and block": (f"{OPEN}{INVOKE}{A}{c.EOS}", "", FA, ["missing_end"]),
    "no end of a value": (f"{OPEN}{INVOKE}{A}{OTHER}12\n{END_INVOKE}{CLOSE}", "", F,
                          ["missing_end"]),
    "no end of a value that another's ends": (
        f"{OPEN}{INVOKE}{STRING}ls\n{N}{END_INVOKE}{CLOSE}", "", [("f", SWALLOWED)], [],
    ),
    "no end of a value, call, block": (
        f"{OPEN}{INVOKE}{STRING}ls 2>&1\n{c.EOS}", "", FA, ["missing_end"],
    ),
    "an end tag without its <": (CALL.replace(f"2</{D}", f"2/{D}"), "", F, ["layout"]),
    "tags without their >": (
        CALL.replace(f"2</{D}parameter>", f"2</{D}parameter").replace("calls>", "calls") + c.EOS,
        "", F, ["layout"] * 3,
    ),
    "a value's end tag without its >": (
        f"{OPEN}{INVOKE}{STRING}ls 2>&1</{D}parameter{END_INVOKE}{CLOSE}", "", FA, ["layout"] * 2,
    ),
    "ASCII bars": (CALL.replace(D, "|DSML|"), "", F, ["layout"] * 8),
    "double bars": (CALL.replace(f"<{D}invoke", "<｜｜DSML｜｜invoke"), "", F, ["layout"]),
    "a broken token": (CALL.replace(f"<{D}invoke", "<|DS\nML|invoke"), "", F, ["layout"]),
    "lost bars": (CALL.replace(f"</{D}invoke", "</DSMLinvoke"), "", F, ["layout"]),
    "space in tags": (CALL.replace(f"</{D}invoke>", f"< / {D} invoke >"), "", F, ["layout"]),
    "space between tags": (CALL.replace(f"\n<{D}par", f"\n\n  <{D}par"), "", F, ["layout"] * 2),
    "toolcalls": (CALL.replace("tool_calls", "toolcalls"), "", F, ["layout"] * 2),
    "tool": (CALL.replace("tool_calls", "tool"), "", F, ["layout"] * 2),
    "single quotes": (CALL.replace('"f"', "'f'"), "", F, ["layout"]),
    "JSON in place of parameters": (
        f'{OPEN}{INVOKE}{{"a": "</x>", "n":1}}\n{END_INVOKE}{CLOSE}',
        "",
        [("f", '{"a": "</x>", "n":1}')],
        ["json_body"],
    ),
    "prose in place of parameters": (
        f"x{OPEN}{INVOKE}list all\n{END_INVOKE}{CLOSE}",
        f"x{OPEN}{INVOKE}list all\n{END_INVOKE}{CLOSE}",
        [],
        ["void_call", "unexpected_markup", "truncated"],
    ),
    "bare words": (
        f"{OPEN}{INVOKE}{OTHER}to be{END_VALUE}{END_INVOKE}{CLOSE}",
        "",
        [("f", '{"n": "to be"}')],
        ["no_json"],
    ),
    "NaN": (f"{OPEN}{INVOKE}{OTHER}NaN{END_VALUE}{END_INVOKE}{CLOSE}", "", [("f", '{"n": "NaN"}')],
            ["no_json"]),
    "an empty value": (
        f"{OPEN}{INVOKE}{OTHER}{END_VALUE}{END_INVOKE}{CLOSE}", "", [("f", '{"n": ""}')],
        ["no_json"],
    ),
    "the same parameter twice": (
        f"{OPEN}{INVOKE}{A}{STRING}b{END_VALUE}{END_INVOKE}{CLOSE}",
        f"{STRING}b{END_VALUE[:-1]}",
        FA,
        ["duplicate_parameter"],
    ),
    "no string attribute": (
        CALL.replace(' string="true"', "").replace(' string="false"', ""), "", F,
        ["missing_string"] * 2,
    ),
    "no arguments": (f"{OPEN}{INVOKE}\n{END_INVOKE}{CLOSE}", "", [("f", "{}")], []),
    "text among parameters": (
        f"{OPEN}{INVOKE}{A}and{N}{END_INVOKE}{CLOSE}", "\nand", F, ["text_in_call"],
    ),
    "text among calls": (
        f"{OPEN}first\n{INVOKE}{A}{END_INVOKE}{CLOSE}", f"{OPEN}first", FA,
        ["unexpected_markup", "missing_start"],
    ),
    "a bare </think>": (f"{c.END_THINK}x{c.EOS}", "x", [], ["redundant_think"]),
    "a late </think>": (f"x{c.END_THINK}y{c.EOS}", "xy", [], ["stray_end"]),
    "a role": (f"x{c.USER}y{c.EOS}", f"x{c.USER}y", [], ["unexpected_markup"]),
    "text after EOS": (f"x{c.EOS}y{CALL}", f"xy{CALL}", [], ["text_after_end"]),
    "EOS inside a value": (
        CALL.replace("2>&1", c.EOS), "", [("f", f'{{"a": "ls {c.EOS}", "n": 12}}')], [],
    ),
    "talk about calls": (
        f"Write <{D}tool_calls> first.{c.EOS}", f"Write <{D}tool_calls> first.", [],
        ["unexpected_markup"],
    ),
    "text after a call": (
        f"{OPEN}{INVOKE}{A}{END_INVOKE}Done.{c.EOS}", "\nDone.", FA,
        ["text_among_calls", "missing_end"],
    ),
    "a tag of nothing": (f"<{D}thing>{c.EOS}", f"<{D}thing>", [], ["unexpected_markup"]),
    "a call without a block's start, a quoted end of its value, no end": (
        f"{INVOKE}{STRING}</|DSML|parameter>!{END_INVOKE}",
        f"{INVOKE}{STRING}</|DSML|parameter>!{END_INVOKE}",
        [],
        ["void_call", "unexpected_markup", "truncated"],
    ),
    "the same, cut": (
        f"{INVOKE}{c.BOS}{STRING}x\n</|DSML|parameter>",
        f"{INVOKE}{c.BOS}{STRING}x\n</|DSML|parameter>",
        [],
        ["truncated"],
    ),
    "a call without a block's start, prose in it": (
        f"x\n{INVOKE}name\n=</{D}tool_calls>{c.EOS}",
        f"x\n{INVOKE}name\n=</{D}tool_calls>",
        [],
        ["void_call", "unexpected_markup"],
    ),
    "a quoted end without its >": (
        f"{OPEN}{INVOKE}{STRING}x</{D}parameter<>", "", [("f", f'{{"a": "x</{D}parameter<>')],
        ["quoted_end", "truncated"],
    ),
    "the same after a block": (
        f"{CALL}</{D}invoke>\n{INVOKE}name=</{D}tool_calls>{c.EOS}",
        f"\n{INVOKE}name=",
        F,
        ["stray_end", "void_call", "text_after_calls", "stray_end"],
    ),
    "a void call after text in a second block": (
        f"{OPEN}{OPEN}{c.USER}{INVOKE}=\n ", f"{c.USER}{INVOKE}=\n ", [],
        ["second_block", "unexpected_markup", "truncated"],
    ),
    "cut after a block's start": (f"x{OPEN}", f"x{OPEN}", [], ["truncated"]),
    "cut between calls": (f"x{OPEN}{INVOKE}{A}{END_INVOKE}", "x", FA, ["truncated"]),
    "cut in a marker": (f"x{OPEN[:9]}", f"x{OPEN[:9]}", [], ["truncated"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WILD)
def test_one_reading_however_it_is_cut(name):
    text, content, calls, kinds = WILD[name]
    wanted = ("", content, calls, kinds)
    assert read(text) == wanted
    whole = records(text)
    for cut in range(len(text)):
        assert records(text, cuts=[cut]) == whole, text[:cut]
    assert records(text, cuts=range(len(text))) == whole


THINKING = {
    "block in reasoning": (
        f"so{CALL}{c.EOS}", "so", "", F, ["block_in_reasoning", "open_reasoning"],
    ),
    "block in reasoning, then an answer": (
        f"so{CALL}\n{c.END_THINK}ok{c.EOS}", "so", "ok", F,
        ["block_in_reasoning", "layout", "text_after_calls"],
    ),
    "open block in reasoning": (
        f"so{OPEN}{INVOKE}{A}{c.END_THINK}ok{c.EOS}", "so", "ok", FA,
        ["block_in_reasoning", "missing_end", "text_after_calls"],
    ),
    "unclosed reasoning": (f"so{c.EOS}", "so", "", [], ["open_reasoning"]),
    "<think> again": (f"{c.THINK}so{c.END_THINK}x{c.EOS}", "so", "x", [], ["redundant_think"]),
}  # fmt: skip


@pytest.mark.parametrize("name", THINKING)
def test_departures_around_reasoning(name):
    text, *wanted = THINKING[name]
    assert read(text, "thinking") == tuple(wanted)
    assert read(text, "thinking", cuts=range(len(text))) == tuple(wanted)


def test_what_the_request_offers_decides():
    assert read(CALL, tools=TOOLS) == ("", "", F, [])
    assert read(CALL, tools=[])[1:3] == (CALL, [])
    assert read(CALL, tool_choice="none")[1:3] == (CALL, [])
    assert set(read(CALL, tools=[])[3]) == {"not_offered", "truncated"}
    assert read(CALL.replace('"f"', '"g"'), tools=TOOLS)[3] == ["unknown_tool"]
    untyped = CALL.replace(' string="true"', "").replace("ls 2>&1", "12")
    assert read(untyped, tools=TOOLS)[2] == [("f", '{"a": "12", "n": 12}')]
    assert read(untyped)[2] == [("f", '{"a": 12, "n": 12}')]


@pytest.mark.parametrize("key", ["arguments", "input"])
@pytest.mark.parametrize("string", ["true", "false"])
def test_arguments_wrapped_once_more(key, string):
    tag = f'<{D}parameter name="{key}" string="{string}">'
    text = f'{OPEN}{INVOKE}{tag}{{"n": 1}}{END_VALUE}{END_INVOKE}{CLOSE}'
    assert read(text, tools=TOOLS)[2:] == ([("f", '{"n": 1}')], ["wrapped_arguments"])
    kept = json.loads(read(text)[2][0][1])  # without a schema it may be the parameter's name
    assert kept == {key: {"n": 1} if string == "false" else '{"n": 1}'}
    more = text.replace(END_INVOKE, N + END_INVOKE)
    assert json.loads(read(more, tools=TOOLS)[2][0][1]) == kept | {"n": 12}
    prose = text.replace('{"n": 1}', "all")
    assert json.loads(read(prose, tools=TOOLS)[2][0][1]) == {key: "all"}


def test_a_call_that_breaks_off_keeps_its_arguments():
    whole = f"{OPEN}{INVOKE}"
    for size in range(len(whole) - 1, len(CALL) - len(CLOSE) - 1):
        _, content, calls, kinds = read(f"x{CALL[:size]}")
        assert (content, kinds[-1]) == ("x", "truncated"), size
        [(name, arguments)] = calls
        assert name == "f" and '{"a": "ls 2>&1", "n": 12}'.startswith(arguments)
    for size in range(len(OPEN) + 1, len(whole) - 1):
        assert read(f"x{CALL[:size]}")[1:] == (f"x{CALL[:size]}", [], ["truncated"])
    parser = StreamParser("chat", "tolerant")
    deltas = parser.feed(f"x{OPEN}{INVOKE}{STRING}l")
    assert deltas[1:] == [CallStart(0, "f"), CallArguments(0, '{"a": "'), CallArguments(0, "l")]
    assert parser.close() == [] and parser.finish_reason == "length"
    cases = {
        f'{STRING}a"b</{D}para': '{"a": "a\\"b',
        f"{OTHER}[1, ": '{"n": [1, ',
        f"{A}{OTHER}": '{"a": "ls 2>&1", "n": ',
        f"{A}<{D}parameter na": '{"a": "ls 2>&1"',
        '{"n": [1, ': '{"n": [1, ',
        "": "",
    }
    for text, arguments in cases.items():
        assert read(whole + text)[1:3] == ("", [("f", arguments)]), text


def test_an_engine_that_strips_the_end_token_says_so():
    assert read("x", stopped=True) == ("", "x", [], [])
    assert read(f"{OPEN}{INVOKE}{A}", stopped=True)[1:3] == ("", FA)
    assert parse_message(f"x{c.EOS}", "chat") == stopped_strictly("x")
    with pytest.raises(ProtocolError, match="closed"):
        parser = StreamParser("chat", "tolerant")
        parser.finish()
        parser.feed("x")
    with pytest.raises(ProtocolError, match="mode"):
        StreamParser("chat", "lenient")


def stopped_strictly(text):
    parser = StreamParser("chat")
    parser.feed(text)
    return parser.finish(stopped=True)
