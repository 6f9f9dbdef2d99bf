"""Graders, by name: an answer and its target → a verdict with its reason.

    verdict = cut     the reply ran into the token limit: it is no answer, whatever it holds
            | refused the server or the model declined
            | unparsed nothing in it is an answer of the form that was asked for, or two are
            | right, wrong (or a share of right)
            | unjudged a judge was to say, and did not: it counts neither way

Only the visible answer is read; digits are ASCII's and letters Latin, since `٤` is not what was
asked for, and Python's own `int` and `\\d` would take it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dsv4.eval.grade import (
    boxed,
    choice,
    code,
    judged,
    overlap,
    plain,
    retrieval,
    scored,
    stated,
    tools,
)
from dsv4.eval.grade.answer import Answer, Grade, Verdict


def _lm_eval(target: Any, answer: Answer) -> Verdict:
    from dsv4.eval.lmgrade import grade  # an extra, and slow to import

    return grade(target, answer)


def _inspect(target: Any, answer: Answer) -> Verdict:
    from dsv4.eval.inspecting import grade  # an extra, too

    return grade(target, answer)


LESS_IS_BETTER = ("bits", "lm_eval_perplexity")  # where a sample that failed is worth no number
OTHERS = (
    "lm_eval",
    "lm_eval_perplexity",
    "inspect",
)  # who decide themselves what a reply that was cut is worth
GRADERS: dict[str, Callable[[Any, Answer], Verdict]] = {
    "letter": choice.letter,
    "boxed": boxed.boxed,
    "number": stated.number,
    "exact": plain.exact,
    "squad": plain.squad,
    "verbatim": plain.verbatim,
    "f1": overlap.drop,
    "python": code.python,
    "mrcr": retrieval.mrcr,
    "calls": tools.calls,
    "state": tools.state,
    "likeliest": scored.likeliest,
    "likeliest_normalised": scored.likeliest_normalised,
    "greedy": scored.greedy,
    "bits": scored.bits,
    "judged": judged.judged,
    "lm_eval": _lm_eval,
    "lm_eval_perplexity": _lm_eval,
    "inspect": _inspect,
}


def verdict_of(grader: str, target: Any, answer: Answer) -> Verdict:
    """The verdict of a grader by its name; cut and refused replies are told by none of them."""
    if answer.scores or grader in OTHERS:
        return GRADERS[grader](target, answer)
    if answer.finish_reason == "length":
        limit = {"steps": "the steps ended", "context": "the window was full"}
        return Verdict("cut", 0.0, limit.get(answer.stopped, "the reply ran into the token limit"))
    if answer.finish_reason == "content_filter":
        return Verdict("refused", 0.0, "the server declined")
    verdict = GRADERS["judged" if answer.rubric else grader](target, answer)
    if verdict.grade == "unparsed" and plain.declines(answer.text):
        return Verdict("refused", 0.0, "the reply declines")
    return verdict


__all__ = ["GRADERS", "Answer", "Grade", "Verdict", "verdict_of"]
