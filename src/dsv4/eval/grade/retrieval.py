"""MRCR: the answer must begin with a code that was asked for; then how alike the rest is.

score = 2·M / T of difflib's matching blocks (M characters match, T of both texts)
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher

from dsv4.eval.grade.answer import Answer, Verdict, share, unparsed


def mrcr(target: Mapping[str, str], answer: Answer) -> Verdict:
    """`target`: the code, and the text that was asked for (without it)."""
    code = target["code"]
    if not answer.text.startswith(code):
        return unparsed(f"does not begin with {code}: {answer.text[:40]!r}")
    said = answer.text.removeprefix(code)
    score = SequenceMatcher(None, said, target["text"]).ratio()
    return share(score, f"{score:.3f} alike: {said[:40]!r}")
