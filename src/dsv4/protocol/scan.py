"""A growing text in steps: text, then the tag or control token that follows it.

A step without a tag or token is text that is certain while more may come. Held back are an end that
may begin a tag or token, and line ends, which belong to the layout if a tag follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from dsv4.protocol.constants import CONTROL, EOS
from dsv4.protocol.markup import LONGEST_TAG, LOOSE_TAG, Item, literal, tag_of


@cache  # compiled when first used: an import should cost nothing
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    whole = "|".join(map(re.escape, words))
    return re.compile(f"{LOOSE_TAG}|(?P<token>{whole})|{'|'.join(map(literal, words))}")


BEGINS = re.compile(r"[</｜|\n]")  # without these a text holds nothing back


class Scanner:
    """Set `in_value` between steps: a parameter's value may spell any control token."""

    def __init__(self) -> None:
        self.held = ""
        self.offset = 0  # of the step's text in the whole
        self.in_value = False
        self._in_text, self._in_value = _pattern(CONTROL), _pattern((EOS,))

    def push(self, text: str, last: bool = False) -> Iterator[tuple[str, Item]]:
        """The steps that are certain after `text`; all that remain if it is the `last`."""
        self.held += text
        skip = 0  # what only looked like a tag up to here is text
        while self.held:
            held = self.held
            found = (self._in_value if self.in_value else self._in_text).search(held, skip)
            item = self._item(found, last) if found else None
            if found is None or (item is None and not last and self._may_grow(found)):
                yield from self._certain(held[: found.start()] if found else held, last)
                return
            if item is None:
                skip = found.start() + 1
                continue
            self.held, skip = held[found.end() :], 0
            yield held[: found.start()], item
            self.offset += found.end()

    def _item(self, found: re.Match[str], last: bool) -> Item:
        if found["token"] and self.in_value:  # the end of a sentence has nothing after it
            return EOS if last and found.end() == len(self.held) else None
        return found["token"] or (tag_of(found) if found["tag"] is not None else None)

    def _may_grow(self, found: re.Match[str]) -> bool:
        if found.end() < len(self.held) or found["tag"] is not None:
            return False
        return found.end() - found.start() <= LONGEST_TAG

    def _certain(self, text: str, last: bool) -> Iterator[tuple[str, None]]:
        if not last:
            text = without_line_ends(text, 1 if self.in_value else 2)
        self.held = self.held[len(text) :]
        if text:
            yield text, None
            self.offset += len(text)


def without_line_ends(text: str, most: int) -> str:
    """The text less at most that many line ends at its end."""
    for _ in range(most):
        text = text.removesuffix("\n")
    return text
