"""Texts that must be the same: to the letter, or after what a metric's own rules take away."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

ARTICLES = re.compile(r"\b(a|an|the)\b")
DECLINES = re.compile(
    r"\s*(?:I'm sorry|I am sorry|Sorry|I can(?:no|')t|I cannot|(?:I'm|I am) (?:not able|unable)|"
    r"I (?:won't|will not)|I must decline|抱歉|对不起|我无法|我不能)",
    re.IGNORECASE,
)


def declines(text: str) -> bool:
    """Whether a reply begins by declining."""
    return DECLINES.match(text.replace("’", "'")) is not None


def exact(target: str | Sequence[str], answer: Answer) -> Verdict:
    """The answer without the space around it is one of the targets; never that it holds one."""
    return _same(target, answer, str.strip)


def squad(target: str | Sequence[str], answer: Answer) -> Verdict:
    """The same without case, punctuation, articles and repeated space (SQuAD's exact match)."""
    return _same(target, answer, bare)


def verbatim(target: str, answer: Answer) -> Verdict:
    """To the letter, the answer's last line end apart."""
    text = answer.text.removesuffix("\n")
    if not text:
        return unparsed("the answer is empty")
    return decided(text == target, f"said {text[:60]!r}")


def bare(text: str) -> str:
    """What SQuAD's metrics compare."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", text).split())


def _same(target: str | Sequence[str], answer: Answer, form: Callable[[str], str]) -> Verdict:
    targets = [target] if isinstance(target, str) else list(target)
    said = form(answer.text)
    if not said:
        return unparsed("the answer is empty")
    if declines(answer.text) and said not in map(form, targets):
        return Verdict("refused", 0.0, f"declined: {answer.text[:60]!r}")
    return decided(said in [form(one) for one in targets], f"said {said[:60]!r}")
