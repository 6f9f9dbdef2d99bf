"""What graders read, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dsv4.eval.subject import Score

Grade = Literal[
    "right", "wrong", "partial", "unparsed", "cut", "refused", "failed", "unjudged", "left out"
]


@dataclass(frozen=True)
class Answer:
    """The visible answer of a reply, its calls; or scores of continuations, as long as `nbytes`.

    `rubric`: that of a judge, and `judged` what it said. Of an agent: what `stopped` it, and the
    `state` that it left; of a conversation that a task of Inspect's led, its `talk`."""

    text: str = ""
    calls: Sequence[Mapping[str, str]] = ()
    finish_reason: str = "stop"
    scores: Sequence[Score] = ()
    nbytes: Sequence[int] = ()
    rubric: str = ""
    judged: Mapping[str, Any] = field(default_factory=dict)
    stopped: str = ""
    state: Any = None
    talk: Sequence[Mapping[str, Any]] = ()


class Verdict(NamedTuple):
    """`score` is what the metric takes the mean of, None where there is none to be counted;
    `reason` says how it came about. `values`: (filter, metric, value) of a task with several."""

    grade: Grade
    score: float | None
    reason: str
    values: Sequence[tuple[str, str, Any]] = ()


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


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError where a name stands twice."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)
