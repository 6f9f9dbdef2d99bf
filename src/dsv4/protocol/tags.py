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
_ATTRIBUTES = r"""(?P<attributes>(?:=\s{0,8}+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))|[^<>=]++|=)*+)"""


@cache
def loose_tag(marks: bool) -> str:
    """A pattern of any tag; group `tag` is None where the text may end inside one."""
    dsml = (re.escape(marked(DSML)), _GAP) if marks else _LOOSE_DSML
    ahead = marked(DSML)[0] if marks else f"[{BARS}]"
    return growing(
        rf"(?:<{_GAP}(?:/{_GAP})?+|/(?={ahead}|\Z))",
        *dsml,
        r"(?P<name>[A-Za-z][A-Za-z0-9_-]{0,31}+)",
        _ATTRIBUTES,
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
    _KEY + rf"(?:\s*=\s*(?:[{_QUOTES}]([^{_QUOTES}]*)[{_QUOTES}]|([^\s{_QUOTES}=]+)))?\s*"
)
_TYPES = ("true", "false")  # the values of `string`
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
    attributes = _attributes(rest[:-1] if empty else rest, whole=end == ">")
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


def _attributes(text: str, whole: bool) -> dict[str, str] | None:
    """By name, the first of each; bare words and values only where the tag is `whole`."""
    for pattern in (_ATTRIBUTE, _LOOSE_ATTRIBUTE):
        out: dict[str, str] = {}
        at = 0
        while at < len(text) and (found := pattern.match(text, at)):
            value = next((group for group in found.groups()[1:] if group is not None), None)
            bare = found[0].rstrip()[-1:].isalnum() and (value or "").lower() not in _TYPES
            if bare and not whole:
                break  # perhaps no attribute, but text after a tag that lost its end
            out.setdefault(found[1].lower(), value or "")
            at = found.end()
        if at == len(text):
            return out
    return None


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


def opens_unknown(item: Item) -> bool:
    """Is of no known name, and may stand for the tag of a block."""
    return isinstance(item, Tag) and not item.closing and not item.name and bool(item.word)


def is_of_block(item: Item) -> bool:
    """Has a meaning between the calls of a block."""
    return opens(item, "invoke") or (isinstance(item, Tag) and item.name == "tool_calls")


def ends_call(item: Item) -> bool:
    """Ends a call, whether or not its own end tag came."""
    return item == EOS or is_of_block(item) or closes(item, "invoke")
