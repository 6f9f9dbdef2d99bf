"""A growing text in steps: text, then the tag or control token that follows it.

A step without a tag or token is text that is certain while more may come. Held back are an end that
may begin a tag or token, and line ends, which belong to the layout if a tag follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal

from dsv4.protocol.constants import CONTROL, DSML, EOS
from dsv4.protocol.marks import MARKS, marked, unmarked
from dsv4.protocol.markup import literal
from dsv4.protocol.tags import LONGEST_TAG, Half, Item, Step, Tag, loose_tag, tag_of

# text: tags and control tokens. value: tags, and control tokens are text, but for EOS at the end of
# the completion. held: the same, and of the tags only the value's exact end tag; spaced: or V4.1's
Mode = Literal["text", "value", "held", "spaced"]

BEGINS = re.compile(rf"[</｜|\r\n{''.join(MARKS.values())}]")  # without these nothing is held back
_LINE_END = re.compile(r"\r?\n\Z")


def end_tags(spaced: bool, marks: bool) -> tuple[str, ...]:
    """The exact end tags of a value; `spaced`: its tag was spelt as V4.1 does."""
    dsml = marked(DSML) if marks else DSML
    return (f"</{dsml}parameter>", *([f"</{dsml} parameter>"] if spaced else []))


@cache  # compiled when first used: an import should cost nothing
def _pattern(mode: Mode, marks: bool) -> re.Pattern[str]:
    name = marked if marks else str
    if mode in ("held", "spaced"):
        tags = end_tags(mode == "spaced", marks)
        words = (*tags, name(EOS))
        whole = f"(?P<end>{'|'.join(map(re.escape, tags))})|(?P<token>{re.escape(name(EOS))})"
        return re.compile(f"{whole}|{'|'.join(map(literal, words))}")
    words = tuple(map(name, CONTROL)) if mode == "text" else (name(EOS), f"/{name(DSML)}parameter")
    whole = "|".join(map(re.escape, words))
    partial = "|".join(map(literal, words))
    return re.compile(f"{loose_tag(marks)}|(?P<token>{whole})|{partial}")


@cache
def _tokens(marks: bool) -> re.Pattern[str]:
    return re.compile(re.escape(f"/{marked(DSML) if marks else DSML}parameter"))


class Scanner:
    """Set `mode` between steps, as the state that reads them asks."""

    def __init__(self, marks: bool, offset: int = 0) -> None:
        self.marks = marks
        self.held = ""
        self.offset = offset  # of the held text in the whole
        self.mode: Mode = "text"

    def push(self, text: str, last: bool = False) -> Iterator[Step]:
        """The steps that are certain after `text`; all that remain if it is the `last`."""
        self.held += text
        skip = 0  # what only looked like a tag up to here is text
        while self.held:
            held = self.held
            found = _pattern(self.mode, self.marks).search(held, skip)
            item = self._item(found, last) if found else None
            if found is None or (item is None and not last and self._may_grow(found)):
                yield from self._certain(held[: found.start()] if found else held, last)
                return
            if item is None:
                skip = found.start() + 1
                continue
            end = found.start() + len(item.raw if isinstance(item, Tag | Half) else item)
            self.held, skip = held[end:], 0
            yield Step(held[: found.start()], item, self.offset + found.start())
            self.offset += end

    def _item(self, found: re.Match[str], last: bool) -> Item:
        groups = found.groupdict()
        if groups["token"]:
            if self.mode == "text":
                return unmarked(groups["token"])
            if found.end() == len(self.held) and last and unmarked(groups["token"]) == EOS:
                return EOS  # the end of a sentence has nothing after it
            return None if unmarked(groups["token"]) == EOS else groups["token"]
        if "end" in groups:
            whole = re.match(loose_tag(self.marks), found.group()) if groups["end"] else None
            return tag_of(whole) if whole else None
        if groups["tag"] is not None:
            tag = tag_of(found)
            lost = self.mode == "value" and tag is None
            token = _tokens(self.marks).match(found.string, found.start()) if lost else None
            return token.group() if token else tag
        half = found.group()
        if last and found.end() == len(self.held) and self._is_half(half):
            return Half(half)
        return None

    def _is_half(self, text: str) -> bool:
        """Begins a tag, and no other token stands in it."""
        whole = re.fullmatch(loose_tag(self.marks), text)
        return whole is not None and len(text) <= LONGEST_TAG and "<" not in text[1:]

    def _may_grow(self, found: re.Match[str]) -> bool:
        if found.end() < len(self.held) or found.groupdict().get("tag") is not None:
            return False
        return found.end() - found.start() <= LONGEST_TAG

    def _certain(self, text: str, last: bool) -> Iterator[Step]:
        if not last:
            text = without_line_ends(text.removesuffix("\r"), 1 if self.mode == "value" else 2)
        self.held = self.held[len(text) :]
        if text:
            yield Step(text, None, self.offset + len(text))
            self.offset += len(text)


def without_line_ends(text: str, most: int) -> str:
    """The text less at most that many line ends at its end."""
    for _ in range(most):
        found = _LINE_END.search(text, max(0, len(text) - 2))
        text = text[: found.start()] if found else text
    return text
