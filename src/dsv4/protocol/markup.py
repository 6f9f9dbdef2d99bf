"""The tags of tool calls and the search for them in a text that is still growing.

<｜DSML｜tool_calls>, <｜DSML｜invoke name="…">, <｜DSML｜parameter name="…" string="true|false">
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from dsv4.protocol.constants import DSML, EOS

BLOCK_TAG, BLOCK_END_TAG = f"<{DSML}tool_calls>", f"</{DSML}tool_calls>"
INVOKE_END_TAG, PARAMETER_END_TAG = f"</{DSML}invoke>", f"</{DSML}parameter>"


def growing(*parts: str) -> str:
    """A pattern of `parts` in a row that also matches where the text ends between two of them."""
    out = ""
    for part in reversed(parts):
        out = f"{part}(?:\\Z|{out})" if out else part
    return out


def literal(word: str) -> str:
    """A pattern of a word, or of what the text's end holds of it."""
    return growing(*map(re.escape, word))


class Markers:
    """Finds the first of some words; group 1 is None where the text ends inside the word.

    The pattern is compiled when it is first used: an import should cost nothing.
    """

    def __init__(self, *words: str):
        self._words = words

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Of the words and their beginnings."""
        whole = "|".join(map(re.escape, self._words))
        return re.compile(f"({whole})|{'|'.join(map(literal, self._words))}")


# ---- tags as models really write them ---------------------------------------------------------

_GAP = r"\s{0,8}+"  # bounded: a tag is never found by backtracking through a page of spaces
LOOSE_TAG = growing(
    rf"(?:<{_GAP}(?:/{_GAP})?+|/(?=[｜|]|\Z))",
    r"[｜|]{0,2}+" + _GAP,
    *("D", "S", _GAP, "M", "L"),
    _GAP + r"[｜|]{0,2}+" + _GAP,
    r"(?P<name>[a-z_]{1,16}+)",
    r"""(?P<attributes>(?:[\s=A-Za-z_]|"[^"]*+"|'[^']*+')*+)""",
    r"""(?:(?P<tag>>|(?=<))|"[^"]*+\Z|'[^']*+\Z)""",
)
LONGEST_TAG = 1024
_NAMES = {
    **dict.fromkeys(
        ("tool_calls", "toolcalls", "tool_call", "toolcall", "tool", "function_calls"), "tool_calls"
    ),
    "invoke": "invoke",
    "parameter": "parameter",
}
_PLACES = {"tool_calls": (), "invoke": ("name",), "parameter": ("name", "string")}
_ATTRIBUTE = re.compile(r"""\s*([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z_]+))\s*""")
_EXACT = re.compile(
    rf'<{DSML}tool_calls>|<{DSML}invoke name="[^"]*">'
    rf'|<{DSML}parameter name="[^"]*" string="(?:true|false)">'
    rf"|</{DSML}(?:tool_calls|invoke|parameter)>"
)


class Tag(NamedTuple):
    """A tag, however it was spelt; `exact` if as the layout spells it."""

    raw: str
    name: str
    closing: bool
    attributes: dict[str, str]
    exact: bool


def tag_of(found: re.Match[str]) -> Tag | None:
    """The tag of a whole match of LOOSE_TAG; None if it only looks like one."""
    raw, name = found.group(), _NAMES.get(found["name"])
    if name is None or len(raw) > LONGEST_TAG:
        return None
    closing = "/" in raw[: raw.index("D")]
    attributes: dict[str, str] = {}
    rest = found["attributes"].strip()
    while rest:
        attribute = _ATTRIBUTE.match(rest)
        if not attribute or attribute[1] in attributes:
            return None
        attributes[attribute[1]] = attribute[2] or attribute[3] or attribute[4] or ""
        rest = rest[attribute.end() :]
    places = () if closing else _PLACES[name]
    typed = attributes.get("string", "true").lower() in ("true", "false")
    if not typed or not attributes.keys() <= set(places):
        return None  # what a tag has no place for must not be lost
    return Tag(raw, name, closing, attributes, _EXACT.fullmatch(raw) is not None)


Item = Tag | str | None  # a tag, a control token, or neither


def raw(item: Item) -> str:
    """As it was written."""
    return item.raw if isinstance(item, Tag) else item or ""


def is_text(gap: str) -> bool:
    """More than the space that tags may have around them."""
    return len(gap) > LONGEST_TAG or not (gap.isspace() or not gap)


def opens(tag: Tag) -> bool:
    """Begins a block, call or parameter."""
    return not tag.closing and (tag.name == "tool_calls" or "name" in tag.attributes)


def opens_block(item: Item) -> bool:
    """Begins a block, or a call that may stand where a block should begin."""
    return isinstance(item, Tag) and item.name != "parameter" and opens(item)


def is_of_block(item: Item) -> bool:
    """Has a meaning between the calls of a block."""
    return opens_block(item) or (isinstance(item, Tag) and item.name == "tool_calls")


def ends_call(item: Item) -> bool:
    """Ends a call, and its parameter, whether or not their own end tags came."""
    if not isinstance(item, Tag):
        return item == EOS
    return is_of_block(item) or (item.name == "invoke" and item.closing)


# ---- values -----------------------------------------------------------------------------------


def string_piece(text: str) -> str:
    """A piece of a JSON string, without its quotes."""
    return encode_basestring(text)[1:-1]


def json_value(text: str) -> Any:
    """The value of JSON text; numbers stay text. Raises ValueError if it is no JSON."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def is_json(text: str) -> bool:
    """Whether it is the JSON text of any value."""
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def is_object(text: str) -> bool:
    """Whether it is the JSON text of an object."""
    return text.lstrip()[:1] == "{" and is_json(text)
