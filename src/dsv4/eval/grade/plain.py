"""Texts that must be the same: to the letter, or after what a metric's own rules take away."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from dsv4.eval.grade.answer import Answer, Verdict, decided, unparsed

ARTICLES = re.compile(r"\b(a|an|the)\b")
DECLINES = re.compile(
    r"\s*(?:I'm sorry|I am sorry|Sorry|I can(?:no|')t|I cannot|(?:I'm|I am) (?:not able|unable)|"
    r"I (?:won't|will not)|I must decline|I apologi[sz]e|Unfortunately,? I (?:can|am)|"
    r"As an AI\b[^.\n]{0,60}\bI (?:can|am|do|must|will|won)|"
    r"(?:很|非常|十分)?抱歉|对不起|不好意思|我无法|我不能|作为(?:一个)?(?:AI|人工智能)[^。\n]{0,30}(?:无法|不能))",
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
    """What SQuAD's metrics compare; punctuation is Unicode's, for “this” and 这。 too."""
    text = "".join(letter for letter in text.lower() if not _is_mark(letter))
    return " ".join(ARTICLES.sub(" ", text).split())


def _is_mark(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _same(target: str | Sequence[str], answer: Answer, form: Callable[[str], str]) -> Verdict:
    """Letters that are composed in two ways are the same, whoever wrote them."""
    given = [target] if isinstance(target, str) else list(target)
    targets = [unicodedata.normalize("NFC", one) for one in given]
    said = form(unicodedata.normalize("NFC", answer.text))
    if not said:
        return unparsed("the answer is empty")
    if declines(answer.text) and said not in map(form, targets):
        return Verdict("refused", 0.0, f"declined: {answer.text[:60]!r}")
    return decided(said in [form(one) for one in targets], f"said {said[:60]!r}")
