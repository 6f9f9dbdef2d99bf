"""A number that a reply states: behind “answer is”, “####”, in a box, or at its end.

What goes on behind the digits belongs to the answer: 1/2, 1e5 and 1,234 are numbers, 10^6, 5:30 and
1,23 are none, and 3 or 4 are two.
"""

from __future__ import annotations

import re

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed
from dsv4.eval.grade.boxed import GROUPED, NUMBER, SIGNS, boxes, normal, value

STATED = re.compile(r"(?i:\banswer\**(?:\s+is|\s*:)|####)\**\s*:?\s*")
OPENING = re.compile(r"(?:[*$€£¥\s]|\\[($])*")
QUANTITY = re.compile(rf"{GROUPED.pattern}(?![0-9])|(?:{NUMBER.pattern})(?:/[0-9]+)?(?![0-9])")
GOES_ON = re.compile(
    r"\s*\^|[:.,/][0-9]|\s+[0-9]|[xyzn](?![A-Za-z])|\s*(?:[-+*/]|\\(?:times|cdot))\s*[0-9(]"
)
ANOTHER = re.compile(r"[*$)\\\s]*(?:\bor\b|\band\b|,|/|&)[*$(\\\s]*[-+−]?[0-9]")


def number(target: str, answer: Answer) -> Verdict:
    """`target` is a number. Two different statements are none."""
    text = answer.text.translate(SIGNS)
    found = [_quantity(text[match.end() :]) for match in STATED.finditer(text)]
    stated = [one for one in found if one is not None]
    if not stated:
        stated = [one.strip(" $") for one in boxes(text)]
    if not stated and (last := _last_line(text)):
        stated = [last]
    if not stated:
        return unparsed(f"no number is stated: {text[-60:]!r}")
    values = {value(normal(one)) for one in stated}
    if None in values:
        return unparsed(f"no single number is stated: {', '.join(stated)[:60]}")
    if len(values) > 1:
        return unparsed(f"{len(values)} numbers are stated: {', '.join(stated)[:60]}")
    return decided(values == {value(target)}, f"said {stated[-1]}, right is {target}")


def _quantity(text: str) -> str | None:
    """The number that a text begins with; with what goes on behind it where that is none."""
    opening = OPENING.match(text)
    at = opening.end() if opening else 0
    match = QUANTITY.match(text, at)
    if match is None:
        return None
    if GOES_ON.match(text, match.end()) or ANOTHER.match(text, match.end()):
        return text[match.start() : match.end() + 12]
    return match[0]


def _last_line(text: str) -> str | None:
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    tail = lines[-1].rpartition("=")[2].strip(" $*")
    return tail if QUANTITY.fullmatch(tail) else None
