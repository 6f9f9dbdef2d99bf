"""A completion of one call, and the tolerant reading of any, with what always holds of it."""

import json

from dsv4.protocol import constants as c
from dsv4.protocol.deltas import CallEnd, message_of
from dsv4.protocol.stream import StreamParser

D = c.DSML
OPEN, CLOSE = f"\n\n<{D}tool_calls>\n", f"</{D}tool_calls>"
INVOKE, END_INVOKE = f'<{D}invoke name="f">\n', f"</{D}invoke>\n"
END_VALUE = f"</{D}parameter>\n"
STRING, OTHER = f'<{D}parameter name="a" string="true">', f'<{D}parameter name="n" string="false">'
A = f"{STRING}ls 2>&1{END_VALUE}"
N = f"{OTHER}12{END_VALUE}"
CALL = f"{OPEN}{INVOKE}{A}{N}{END_INVOKE}{CLOSE}"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"properties": {"a": {"type": "string"}, "n": {"type": "integer"}}},
        },
    }
]


def read(*given, **options):
    """(reasoning, content, [(name, arguments)…], error kinds), from pieces."""
    *out, errors = records(*given, **options)
    return *out, [error.kind for error in errors]


def records(text, mode="chat", cuts=(), stopped=False, **options):
    """The same with the errors whole."""
    parser, deltas, last = StreamParser(mode, "tolerant", **options), [], 0
    for cut in [*sorted(cuts), len(text)]:
        deltas += parser.feed(text[last:cut])
        last = cut
    deltas += parser.close(stopped)
    message = parser.finish()
    assert message_of(deltas) == message
    calls = [tuple(call["function"].values()) for call in message["tool_calls"]]
    whole = {delta.call for delta in deltas if isinstance(delta, CallEnd)}
    assert whole | {len(calls) - 1} >= set(range(len(calls)))  # only the last one is cut, if any
    assert len(whole) == len(calls) or (parser.truncated and parser.finish_reason == "length")
    for number in whole:
        assert isinstance(json.loads(calls[number][1]), dict)
    places = [error.offset for error in parser.errors]
    assert places == sorted(places)
    assert len({error[:2] for error in parser.errors}) == len(places)
    for error in () if stopped else parser.errors:
        assert text[error.offset : error.offset + len(error.text)] == error.text
    kinds = [error.kind for error in parser.errors]
    assert parser.truncated == ("truncated" in kinds)
    return message["reasoning_content"], message["content"], calls, parser.errors
