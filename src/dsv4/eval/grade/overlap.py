"""DROP's F1: words of the answer's spans and of the target's, matched one to one.

F1 = mean over matched spans of 2·|a ∩ b| / (|a| + |b|), 0 where their numbers do not meet
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache

from dsv4.eval.grade.answer import Answer, Verdict, share, unparsed
from dsv4.eval.grade.plain import ARTICLES

MOST = 10  # spans that are matched in every way
NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")


def drop(target: Sequence[Sequence[str]], answer: Answer) -> Verdict:
    """`target`: the answers that count, each a list of spans. The answer is one span."""
    text = answer.text.strip()
    if not text or not bag(text):
        return unparsed("the answer is empty")
    best = max(f1([text], spans) for spans in target)
    return share(round(best, 2), f"said {text[:60]!r}")


def f1(said: Sequence[str], right: Sequence[str]) -> float:
    """Of two lists of spans."""
    mine, gold = [bag(one) for one in said][:MOST], [bag(one) for one in right][:MOST]
    scores = [[_pair(a, b) for b in gold] for a in mine]

    @cache
    def best(row: int, used: int) -> float:
        if row == len(mine):
            return 0.0
        rest = [best(row + 1, used)]
        rest += [
            scores[row][col] + best(row + 1, used | 1 << col)
            for col in range(len(gold))
            if not used >> col & 1
        ]
        return max(rest)

    return best(0, 0) / max(len(mine), len(gold))


def bag(text: str) -> frozenset[str]:
    """The words that count, numbers in one spelling."""
    words = re.split(r"[ \-]", text.lower()) if not NUMBER.fullmatch(text) else [text]
    out = set()
    for word in words:
        if NUMBER.fullmatch(word.replace(",", "")):
            out.add(str(float(word.replace(",", ""))))
            continue
        left = "".join(letter for letter in word if letter not in string.punctuation)
        out.update(ARTICLES.sub(" ", left).split())
    return frozenset(out)


def _pair(a: frozenset[str], b: frozenset[str]) -> float:
    numbers = {word for word in b if NUMBER.fullmatch(word)}
    if numbers and not numbers & a:
        return 0.0
    common = len(a & b)
    return 2 * common / (len(a) + len(b)) if a or b else 1.0
