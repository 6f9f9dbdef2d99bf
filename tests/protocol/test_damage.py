"""Damage that is recovered, and what looks like a call and must not be one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4.protocol import ProtocolError, StreamParser
from dsv4.protocol import constants as c

D, EOS = c.DSML, c.EOS
OPEN, CLOSE = f"\n\n<{D}tool_calls>\n", f"</{D}tool_calls>"
INVOKE, END = f'<{D}invoke name="f">\n', f"</{D}invoke>\n"
A = f'<{D}parameter name="a" string="true">'
N = f'<{D}parameter name="n" string="false">'
STOP = f"</{D}parameter>\n"
CALL = f"{OPEN}{INVOKE}{A}ls{STOP}{N}12{STOP}{END}{CLOSE}"
PARAMETERS = {"a": {"type": "string"}, "n": {"type": "integer"}}


def tools(**properties):
    return [{"function": {"name": "f", "parameters": {"properties": properties}}}]


def read(text, mode="chat", step=None, **options):
    """(content, [(name, arguments)…], kinds of records); whole or in pieces."""
    parser = StreamParser(mode, "tolerant", **options)
    for at in range(0, len(text), step or len(text)):
        parser.feed(text[at : at + (step or len(text))])
    message = parser.finish()
    calls = [tuple(call["function"].values()) for call in message["tool_calls"]]
    return message["content"], calls, [error.kind for error in parser.errors]


def always(text, mode="chat", **options):
    """The same for every size of the pieces."""
    whole = read(text, mode, **options)
    assert all(read(text, mode, step, **options) == whole for step in (1, 2, 3, 7, 50))
    return whole


def call(value):
    return f"{OPEN}{INVOKE}{A}{value}{STOP}{END}{CLOSE}{EOS}"


@pytest.mark.parametrize(
    "quoted",
    [
        f'Write <{D}invoke name="f"> then',
        f'\n<{D}invoke name="g">\n{A}x\n',
        f"<{D}tool_calls>\n<{D}invoke name='g'>",
        f"</|DSML|parameter>\n</{D}invoke>\n</{D}tool_calls>",
        f'</{D}invoke>\n<{D}invoke name="g"/>\n',
        "</ ‖dsml‖ Parameter >",
        f"{EOS}{c.END_THINK}",
    ],
)
def test_a_quoted_tag_is_no_call(quoted):
    wanted = ("", [("f", json.dumps({"a": quoted}, ensure_ascii=False))], [])
    assert always(call(quoted)) == wanted
    strict = StreamParser("chat")
    strict.feed(call(quoted))
    assert strict.finish()["tool_calls"][0]["function"]["arguments"] == wanted[1][0][1]


def test_a_lost_end_tag_is_guessed_at_the_end_alone():
    whole = [("f", '{"a": "ls", "n": 12}')]
    for last in ("\n", "</|DSML|parameter>\n", f'</{D}parameter name="q">\n', f"/{D}parameter>\n"):
        text = f"{OPEN}{INVOKE}{A}ls{STOP}{N}12{last}{END}{CLOSE}{EOS}"
        assert always(text)[:2] == ("", whole) and read(text)[2]
    quoting = (
        f'{OPEN}{INVOKE}{A}see <{D}invoke name="g"> and\n<{D}tool_calls> so\n{END}{CLOSE}{EOS}'
    )
    [(_, arguments)] = always(quoting)[1]
    assert json.loads(arguments)["a"] == f'see <{D}invoke name="g"> and\n<{D}tool_calls> so'


def swap(*pairs):
    text = CALL
    for old, new in pairs:
        text = text.replace(old, new)
    return text


DAMAGED = {
    **{f"bar {bar}": CALL.replace("｜", bar) for bar in "‖|∥│¦ǀ"},
    "case": swap((D, "｜dsml｜"), ("invoke", "Invoke"), ("string", "String"), ("true", "TRUE")),
    "unknown block": swap(("tool_calls", "function_list")),
    "typographic": swap(('"f"', "“f”"), ('"a"', "«a»"), ('"n"', "„n“")),
    "half typographic": swap(('"a"', '"a”')),
    "string yes": swap(('"true"', '"yes"')),
    "extra attributes": swap(('string="true"', 'string="true" type="str" required')),
    "end tags repeat": swap(("</｜DSML｜parameter>", '</｜DSML｜parameter name="q">')),
    "end of call repeats": swap(("</｜DSML｜invoke>", '</｜DSML｜invoke name="f">')),
    "V4.1": swap(*((D + w, f"{D} {w}") for w in ("invoke", "parameter")), ("tool_", " ")),
    "CRLF": CALL.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_recovered_and_recorded(name):
    content, calls, kinds = always(f"x{DAMAGED[name]}{EOS}", tools=tools(**PARAMETERS))
    assert (content, calls) == ("x", [("f", '{"a": "ls", "n": 12}')]) and kinds


RUN_TOGETHER = {  # what damage made of a tag, or of two
    "a bare name, then a quoted one": (A, f'<{D}parameter name=r name="a" string="true">', "ls"),
    "a name alone, then a quoted one": (A, f'<{D}parameter name name="a" string="true">', "ls"),
    "a type without its end": (A, f'<{D}parameter name="a" string="true>', "ls"),
    "a type without its end, quotes in the value": (
        f"{A}ls",
        f'<{D}parameter name="a" string="true>say "ls"',
        'say "ls"',
    ),
    "a name without its end": (A, f'<{D}parameter name="a>', "ls"),
}


@pytest.mark.parametrize("name", RUN_TOGETHER)
def test_attributes_that_are_damaged_are_read(name):
    old, new, value = RUN_TOGETHER[name]
    text = f"{OPEN}{INVOKE}{A}ls{STOP}{END}{CLOSE}{EOS}".replace(old, new)
    content, calls, kinds = always(text, tools=tools(**PARAMETERS))
    assert (content, calls) == ("", [("f", json.dumps({"a": value}))]) and kinds


def test_a_parameter_may_have_an_empty_name():
    text = call("x").replace('name="a"', 'name=""')
    assert always(text) == ("", [("f", '{"": "x"}')], [])


@pytest.mark.parametrize(
    "tag",
    [
        f'</{D}invok\ninvoke name="g">',
        f'</{D}invo|SML|invoke name="g">',
        f'</{D}invoke\noke name="g">',
        f'</{D}|invoke name="g">',
        f'<{D}invoke name n\ne="g">',
        f'<{D}parameter name="b" string="true|w1>',
        f'<{D}invoke name="f"parameter name="g" string="true">',
    ],
)
def test_a_tag_that_was_two_is_text(tag):
    content, calls, kinds = always(f"{OPEN}{INVOKE}{A}ls{STOP}{tag}\n{END}{CLOSE}{EOS}")
    assert content.strip() == tag and calls == [("f", '{"a": "ls"}')] and kinds


@pytest.mark.parametrize("end", ["/>", " />"])
def test_a_call_that_closes_itself(end):
    text = f'{OPEN}<{D}invoke name="f"{end}\n{CLOSE}{EOS}'
    assert always(text) == ("", [("f", "{}")], ["layout"])


@pytest.mark.parametrize("key", ["parameters", "params", "args", "kwargs", "arguments", "input"])
def test_wrappers(key):
    text = call("x").replace(f"{A}x", f'<{D}parameter name="{key}" string="false">{{"a": "x"}}')
    assert always(text, tools=tools(**PARAMETERS))[1:] == (
        [("f", '{"a": "x"}')],
        ["wrapped_arguments"],
    )


def test_ends_that_end_nothing_are_not_shown():
    content, calls, kinds = always(f"x{CALL}\n{END}{CLOSE}{EOS}")
    assert (content, len(calls), kinds.count("stray_end")) == ("x", 1, 2)
    assert always(f"a{c.END_THINK}b{c.END_THINK}c{EOS}", "thinking")[::2] == ("bc", ["stray_end"])
    assert always(f"{OPEN}{INVOKE}{A}x{STOP}{END}{END}{CLOSE}{EOS}")[2] == ["stray_end"]


def test_prose_is_not_executed():
    whole = f"{INVOKE}{A}x{STOP}{END}"
    for text in (
        f"Use {whole}",
        f"Use\n{INVOKE}and then",
        f"Use\n{whole}Good.",
        f"```\n{whole}```",
        f"Use\n{INVOKE}{A}\nand so on",
        f"Use\n{INVOKE}First {A}x{STOP}{END}",
    ):
        content, calls, kinds = always(text + EOS)
        assert (content, calls) == (text, []) and kinds
    for text in (whole, whole + CLOSE, f"x\n{whole}", f"x\n\n{whole}{CLOSE}"):
        content, calls, kinds = always(text + EOS)
        assert calls == [("f", '{"a": "x"}')] and kinds[0] == "missing_start"
    assert len(always(f"{whole}{whole}{EOS}")[1]) == 2


def test_types_that_were_left_out_are_the_schemas():
    text = call("12").replace(' string="true"', "")
    for schema in (
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "null"}, {"enum": ["12"], "type": "string"}]},
        {"enum": ["12", "13"]},
    ):
        assert always(text, tools=tools(a=schema))[1] == [("f", '{"a": "12"}')], schema
    for schema in ({"type": "integer"}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}, {}):
        assert always(text, tools=tools(a=schema))[1] == [("f", '{"a": 12}')], schema


def test_a_reply_may_begin_in_a_block_or_in_a_prefix():
    inside = f"{INVOKE}{A}x{STOP}{END}{CLOSE}{EOS}"
    assert always(inside, begins="calls") == ("", [("f", '{"a": "x"}')], [])
    assert always(EOS, begins="calls")[:2] == ("", [])
    strict = StreamParser("chat", begins="calls")
    strict.feed(inside)
    assert strict.finish()["tool_calls"][0]["function"]["arguments"] == '{"a": "x"}'
    for mode in ("strict", "tolerant"):
        parser = StreamParser("thinking", mode, begins="content")
        parser.feed(f"\n on{EOS}")
        assert parser.finish()["content"] == "\n on"
        parser = StreamParser("thinking", mode, begins="reasoning")
        parser.feed(f" so{c.END_THINK}on{EOS}")
        assert parser.finish()["reasoning_content"] == " so"
    with pytest.raises(ProtocolError, match="begins"):
        StreamParser("chat", begins="nowhere")


def pieces_of(text, spelled=()):
    """Control tokens apart, but for those at the places `spelled`, which are text."""
    parts = c.CONTROL_RE.split(text)
    return [(p, i % 2 == 1 and i // 2 not in spelled) for i, p in enumerate(parts) if p]


@pytest.mark.parametrize("mode", ["strict", "tolerant"])
def test_where_ids_are_known_spelled_tokens_are_text(mode):
    text = f"so{c.END_THINK}x{CALL}{EOS}"
    for pieces in (
        pieces_of(text),
        [(p, k) for t, k in pieces_of(text) for p in ([t] if k else t)],
    ):
        parser = StreamParser("thinking", mode)
        for piece in pieces:
            parser.feed(piece)
        message = parser.finish()
        assert message["reasoning_content"] == "so" and message["content"] == "x"
        assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "ls", "n": 12}'
        assert parser.errors == []
    parser = StreamParser("chat", mode)
    for letter in f"x{c.END_THINK}{c.USER}{CALL}{EOS}":
        parser.feed((letter, False))
    parser.feed((EOS, True))
    assert parser.finish()["content"] == f"x{c.END_THINK}{c.USER}{CALL}{EOS}"
    assert parser.errors == []


@given(
    st.lists(st.tuples(st.sampled_from([*c.CONTROL, "</", "invoke", "\udc3c", "a"]), st.booleans()))
)
def test_any_pieces_are_read(pieces):
    parser = StreamParser("thinking", "tolerant")
    for text, control in pieces:
        parser.feed((text, control and text in c.CONTROL))
    out = json.dumps([parser.finish(), parser.errors], ensure_ascii=False)
    assert "\udc3c" not in out and "\udc5c" not in out


def test_stop_strings_count_in_content_alone():
    text = f"STOP{c.END_THINK}a{call('STOP').removesuffix(EOS)}b STOP c{EOS}"
    for step in (1, 3, 500):
        parser = StreamParser("thinking", "tolerant", stop="STOP")
        for at in range(0, len(text), step):
            parser.feed(text[at : at + step])
        message = parser.finish()
        assert message["reasoning_content"] == "STOP" and message["content"] == "ab "
        assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "STOP"}'
        assert (parser.stopped_by, parser.finish_reason) == ("STOP", "stop")


def test_the_strict_reader_stays_failed():
    parser = StreamParser("chat")
    with pytest.raises(ProtocolError):
        parser.feed(f"x{c.USER}")
    for again in (lambda: parser.feed("y"), parser.close, parser.finish):
        with pytest.raises(ProtocolError, match="may not stand"):
            again()


def test_records_are_in_order_once_each_with_the_whole_tag():
    parser = StreamParser("chat", "tolerant")
    text = f"a <{D}thing x='1'> b{CALL.replace(D, '|DSML|')}{END}{EOS}"
    parser.feed(text)
    parser.finish()
    places = [error.offset for error in parser.errors]
    assert places == sorted(set(places))
    assert parser.errors[0].text == f"<{D}thing x='1'>"
    assert all(text[e.offset :].startswith(e.text) for e in parser.errors)
