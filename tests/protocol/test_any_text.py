"""Any text is read tolerantly: nothing lost, nothing invented, the same however it is cut."""

import json
import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dsv4.protocol import constants as c
from dsv4.protocol.encode import encode_messages
from dsv4.protocol.markup import is_json
from dsv4.protocol.stream import parse_message

from .replies import (
    CLOSE,
    END_INVOKE,
    END_VALUE,
    INVOKE,
    OPEN,
    OTHER,
    STRING,
    TOOLS,
    A,
    N,
    read,
    records,
)

_ENDLESS = r"""\w+(?:\s*\w+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*(?=<)"""  # a tag up to the next one
_TAG = rf"<?\s*/?[｜|]*DS\s*ML[｜|]*(?:(?:[^<>\"]|\"[^\"]*\")*>|[^<>]*>|{_ENDLESS})"
MARKUP = re.compile("|".join([_TAG, *map(re.escape, c.CONTROL), r"\s"]))
ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")


def unescaped(arguments):
    return ESCAPE.sub(lambda found: json.loads(f'"{found[0]}"'), arguments)


def lost(text, reasoning, content, calls, errors):
    """Characters outside of anything like markup that came out nowhere."""
    out = reasoning + content + "".join(name + unescaped(given) for name, given in calls)
    out += "".join(e.text for e in errors if e.kind == "truncated" and "<" not in e.text[1:])
    return Counter(MARKUP.sub("", text)) - Counter(out)  # half a tag may be in its record alone


def invented(text, reasoning, content, calls):
    """Characters that came out more often than they went in; of arguments, names and strings."""
    out = reasoning + content + "".join(name for name, _ in calls)
    for _, arguments in calls:
        if not is_json(arguments):
            continue  # the call was cut
        read = json.loads(arguments).items()
        out += "".join(k + (v if isinstance(v, str) else "") for k, v in read)
    return Counter(out) - Counter(text)


SHREDS = [*c.CONTROL, OPEN, CLOSE, INVOKE, END_INVOKE, STRING, OTHER, END_VALUE, A, N, "<", "</"]
SHREDS += [
    "|DSML|",
    "\n",
    "\n\n",
    " ",
    "a",
    "12",
    '{"a": 1}',
    '"',
    "/",
    "｜",
    "name=",
    "invoke",
    ">",
]
MODES = st.sampled_from(["chat", "thinking"])


@given(st.lists(st.sampled_from(SHREDS) | st.text(max_size=3), max_size=25), MODES, st.data())
def test_any_text_is_read_and_cuts_do_not_matter(shreds, mode, data):
    text = "".join(shreds)
    tools = data.draw(st.sampled_from([None, TOOLS, []]))
    whole = records(text, mode, tools=tools)
    assert not lost(text, *whole) and not invented(text, *whole[:3])
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert records(text, mode, cuts, tools=tools) == whole
    assert records(text, mode, range(len(text)), tools=tools) == whole
    if not whole[3] and tools is None:  # nothing departed: strict agrees
        strict = parse_message(text, mode)
        assert (strict["reasoning_content"], strict["content"]) == whole[:2]
        assert [tuple(call["function"].values()) for call in strict["tool_calls"]] == whole[2]


WORDS = st.integers(0, 10**6).map(lambda n: f"w{n:07}")


@given(st.lists(WORDS, min_size=9, max_size=9, unique=True), st.data())
def test_damage_to_the_markup_loses_no_word(words, data):
    """Characters of the markup are deleted, doubled or swapped in; every payload word survives."""
    calls = [
        {"function": {"name": words[i], "arguments": json.dumps({words[i + 1]: words[i + 2]})}}
        for i in (2, 5)
    ]
    message = {"role": "assistant", "reasoning_content": words[0], "content": words[1]}
    text = encode_messages(
        [message | {"tool_calls": calls}], "thinking", context=[{"role": "user", "content": ""}]
    )
    pieces = re.split(r"(w\d{7})", text)
    for _ in range(data.draw(st.integers(1, 4))):
        at = 2 * data.draw(st.integers(0, len(pieces) // 2))
        if pieces[at]:
            i = data.draw(st.integers(0, len(pieces[at]) - 1))
            j = data.draw(st.integers(i, min(len(pieces[at]), i + 12)))
            new = data.draw(st.sampled_from(["", pieces[at][i:j] * 2, "<", "\n", '"', "|", ">"]))
            pieces[at] = pieces[at][:i] + new + pieces[at][j:]
    reasoning, content, read_calls, _ = records("".join(pieces), "thinking")
    out = reasoning + content + "".join(name + arguments for name, arguments in read_calls)
    for word in words[:8]:
        assert out.count(word) == 1, (word, out)


@given(st.text(st.sampled_from(list("ab <>/\n|\"'{}DSML")), max_size=80))
def test_text_without_control_tokens_is_content(text):
    if not re.search(r"DS\s*ML", text):
        assert read(text + c.EOS)[1:] == (text, [], [])
