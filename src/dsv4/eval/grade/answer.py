"""What graders read, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dsv4.eval.subject import Score

Grade = Literal["right", "wrong", "partial", "unparsed", "cut", "refused", "failed"]


@dataclass(frozen=True)
class Answer:
    """The visible answer of a reply, its calls; or scores of continuations, as long as `nbytes`."""

    text: str = ""
    calls: Sequence[Mapping[str, str]] = ()
    finish_reason: str = "stop"
    scores: Sequence[Score] = ()
    nbytes: Sequence[int] = ()


class Verdict(NamedTuple):
    """`score` is what the metric takes the mean of; `reason` says how it came about."""

    grade: Grade
    score: float
    reason: str


def decided(right: bool, reason: str) -> Verdict:
    """Right or wrong."""
    return Verdict("right" if right else "wrong", float(right), reason)


def share(score: float, reason: str) -> Verdict:
    """Right, wrong, or something between."""
    if 0 < score < 1:
        return Verdict("partial", score, reason)
    return decided(score >= 1, reason)


def unparsed(reason: str) -> Verdict:
    """No answer of the form that was asked for."""
    return Verdict("unparsed", 0.0, reason)
