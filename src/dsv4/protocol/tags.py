"""The tags of tool calls as models really write them.

    <｜DSML｜invoke name="f">    < | dsml | Invoke name=“f” id=3 >    </DSML parameter name="q">

Bars may be doubled, lost or others that look alike, letters of either case, quotes typographic,
attributes repeated, unknown or left out. With marks (see marks.py) only the token is DSML.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from dsv4.protocol.constants import DSML, EOS
from dsv4.protocol.marks import marked, unmarked
from dsv4.protocol.markup import growing

LONGEST_TAG = 1024
LONGEST_UNREADABLE = 200  # a tag whose attributes cannot be read is one up to this length
BARS = "｜|‖∥∣ǀǁ│┃║￨¦￤❘❙❚⏐⎮।॥׀"

_BAR = f"[{BARS}]{{0,2}}+"
_GAP = r"\s{0,8}+"  # bounded: a tag is never found by backtracking through a page of spaces
_LOOSE_DSML = (_BAR + _GAP, "[Dd]", "[Ss]", _GAP, "[Mm]", "[Ll]", _GAP + _BAR + _GAP)


@cache
def loose_tag(marks: bool) -> str:
    """A pattern of any tag; group `tag` is None where the text may end inside one."""
    dsml = (re.escape(marked(DSML)), _GAP) if marks else _LOOSE_DSML
    ahead = marked(DSML)[0] if marks else f"[{BARS}]"
    within = rf"[^{{0}}<]|<(?!/?{ahead})"  # a quote that has no end does not reach the next tag
    quoted = "|".join(rf"{q}(?:{within.format(q)})*+(?:{q}|\Z)" for q in "\"'")
    typed = '(?<=[Ss]tring)="(?:true|false)(?=>)'  # another that has no end
    return growing(
        rf"(?:<{_GAP}(?:/{_GAP})?+|/(?={ahead}|\Z))",
        *dsml,
        r"(?P<name>[A-Za-z][A-Za-z0-9_-]{0,31}+)",
        rf"(?P<attributes>(?:{typed}|=\s{{0,8}}+(?:{quoted})|[^<>=]++|=)*+)",
        r"(?P<tag>>|(?=<))",
    )


_BLOCKS = ("tool_calls", "toolcalls", "tool_call", "toolcall", "tool", "tools", "calls")
_NAMES = {
    **dict.fromkeys((*_BLOCKS, "function_calls", "function_call"), "tool_calls"),
    "invoke": "invoke",
    "parameter": "parameter",
    "param": "parameter",
}
_QUOTES = "\"'“”„‟″＂«»‹›‘’‚‛′`"
_KEY = r"\s*([A-Za-z_][A-Za-z0-9_:-]*)"
_ATTRIBUTE = re.compile(_KEY + r"""\s*=\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_.-]+))\s*""")
_LOOSE_ATTRIBUTE = re.compile(
    rf"{_KEY}(?:\s*=\s*(?:[{_QUOTES}]([^{_QUOTES}]*)[{_QUOTES}]"
    rf"|[{_QUOTES}]([^\s{_QUOTES}=]*)\Z|([^\s{_QUOTES}=]+)))?\s*"
)
_TYPES = ("true", "false")  # the values of `string`
_TYPE = re.compile(r"[A-Za-z _-]*|[01]")  # and what may stand in their place
_EXACT = re.compile(
    rf'<{DSML}tool_calls>|<{DSML}invoke name="[^"]*">'
    rf'|<{DSML}parameter name="[^"]*" string="(?:true|false)">'
    rf"|</{DSML}(?:tool_calls|invoke|parameter)>"
)


class Tag(NamedTuple):
    """A tag, however it was spelt; `exact` if as the layout spells it."""

    raw: str
    name: str  # tool_calls, invoke, parameter, or "" for any other
    word: str  # the name as it was spelt, in small letters; "" if the tag cannot be read
    closing: bool
    empty: bool  # <invoke name="f"/>
    attributes: dict[str, str]
    exact: bool
    ends_value: bool | None = None  # None: that depends on what follows


class Half(NamedTuple):
    """What the end of a completion left of a tag."""

    raw: str


Item = Tag | Half | str | None  # a tag, a half of one, a control token, or nothing


class Step(NamedTuple):
    """Text, then what follows it at place `at` of the completion."""

    text: str
    item: Item
    at: int


def tag_of(found: re.Match[str]) -> Tag | None:
    """The tag of a whole match of `loose_tag`; None if it only looks like one."""
    raw, word, end = found.group(), found["name"].lower(), found["tag"]
    raw = raw if end == ">" else raw.rstrip()  # space before the next tag is the gap's
    if len(raw) > LONGEST_TAG:
        return None
    rest = found["attributes"].rstrip()
    closing = "/" in raw[: found.start("name") - found.start()]
    empty = rest.endswith("/") and not closing and end == ">"
    attributes = _attributes(rest[:-1] if empty else rest, end == ">", closing)
    name = _NAMES.get(word, "")
    if attributes is None:
        if len(raw) > LONGEST_UNREADABLE or end != ">" or "\n" in raw:
            return None
        name, word, attributes = "", "", {}
    spelled = unmarked(raw)
    if not name and (end != ">" or not any(bar in spelled for bar in BARS)):
        return None  # <dsmlx> is anyone's
    exact = _EXACT.fullmatch(spelled) is not None
    return Tag(raw, name, word, closing, empty, attributes, exact)


class Attribute(NamedTuple):
    """One of a tag."""

    key: str
    value: str
    bare: bool  # without quotes, and neither true nor false


def _attributes(text: str, whole: bool, closing: bool) -> dict[str, str] | None:
    """By name, the first of each, a quoted one before others; None if they cannot be read.

    Bare ones count only where the tag is `whole`, and in an end tag not beside a name.
    """
    row = _row(_ATTRIBUTE, text)
    row = _row(_LOOSE_ATTRIBUTE, text) if row is None else row
    if row is None:
        return None
    bare = any(one.bare for one in row)
    names = {one.value for one in row if one.key == "name" and not one.bare}
    if len(names) > 1 or (bare and (not whole or (closing and names))):
        return None  # text after a tag that lost its end, or what was left of two tags
    out = {one.key: one.value for one in reversed(row) if one.bare}
    if not names and not out.get("name", "?"):
        del out["name"]  # the word alone
    return out | {one.key: one.value for one in reversed(row) if not one.bare}


def _row(pattern: re.Pattern[str], text: str) -> list[Attribute] | None:
    row: list[Attribute] = []
    at = 0
    while at < len(text):
        found = pattern.match(text, at)
        if found is None:
            return None
        key, value = found[1].lower(), next(filter(None, found.groups()[1:]), "")
        if at and not text[at - 1].isspace() and key not in ("name", "string"):
            return None
        if key == "string" and not _TYPE.fullmatch(value):
            return None  # a quote that lost its end, and reached into the value
        bare = found[0].rstrip()[-1:].isalnum() and value.lower() not in _TYPES
        row.append(Attribute(key, value, bare))
        at = found.end()
    return row


def raw(item: Item) -> str:
    """As it was written."""
    return item.raw if isinstance(item, Tag | Half) else item or ""


def is_text(gap: str) -> bool:
    """More than the space that tags may have around them."""
    return len(gap) > LONGEST_TAG or not (gap.isspace() or not gap)


def opens(item: Item, name: str) -> bool:
    """Begins a block (`tool_calls`), a call (`invoke`) or a `parameter`."""
    if not isinstance(item, Tag) or item.closing or item.name != name:
        return False
    return name == "tool_calls" or "name" in item.attributes


def closes(item: Item, name: str) -> bool:
    """Ends one."""
    return isinstance(item, Tag) and item.closing and item.name == name


def ends(item: Item) -> bool:
    """Is an end tag that hides nothing: of a known name, or of another name alone."""
    if not isinstance(item, Tag) or not item.closing:
        return False
    return bool(item.name or (item.word and not item.attributes))


def opens_unknown(item: Item) -> bool:
    """Is of no known name, and may stand for the tag of a block."""
    return isinstance(item, Tag) and not item.closing and not item.name and bool(item.word)


def is_of_block(item: Item) -> bool:
    """Has a meaning between the calls of a block."""
    return opens(item, "invoke") or (isinstance(item, Tag) and item.name == "tool_calls")


def ends_call(item: Item) -> bool:
    """Ends a call, whether or not its own end tag came."""
    return item == EOS or is_of_block(item) or closes(item, "invoke")
