"""The rating that a set of candidate programs would earn, by the report's procedure.

10 of a problem's candidates are drawn without replacement and submitted in random order; a problem
solved after k failures scores the median of the humans who solved it after k. The sum gives a rank
among the contest's humans, and the rank a rating:

    rank = 1 + #{humans with more points},   Σ_i 1 / (1 + 10^((R − r_i)/400)) + 1 = rank

Expectation over draws, mean over contests.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DRAWN = 10
LOW, HIGH = 0.0, 8000.0


@dataclass(frozen=True)
class Problem:
    """`passed`: whether each candidate is accepted. `medians[k]`: the humans' median score with k
    failed attempts; beyond the last, the last."""

    passed: Sequence[bool]
    medians: Sequence[float]


@dataclass(frozen=True)
class Contest:
    """`points` and `ratings` of its human participants, in one order."""

    problems: Sequence[Problem]
    points: Sequence[float]
    ratings: Sequence[float]


def chances(right: int, candidates: int, drawn: int = DRAWN) -> list[float]:
    """P(the first accepted submission follows k failures) for k < drawn; the rest is never."""
    out, left = [], 1.0
    for k in range(min(drawn, candidates)):
        hit = right / (candidates - k)
        out.append(left * hit)
        left *= 1 - hit
    return out


def rating_of(rank: float, ratings: Sequence[float]) -> float:
    """The rating of whom the Codeforces system expects at this rank among these humans."""
    low, high = LOW, HIGH
    for _ in range(60):
        middle = (low + high) / 2
        expected = 1 + sum(1 / (1 + 10 ** ((middle - r) / 400)) for r in ratings)
        low, high = (middle, high) if expected > rank else (low, middle)
    return low


def contest_rating(contest: Contest, *, draws: int = 1000, seed: int = 0) -> float:
    """The expected rating of one contest, over `draws` seeded draws."""
    rng = random.Random(seed)
    table = [
        (chances(sum(p.passed), len(p.passed)), p.medians) for p in contest.problems if p.passed
    ]
    ranked = sorted(contest.points)
    known: dict[int, float] = {}
    total = 0.0
    for _ in range(draws):
        points = sum(
            _points(rng.random(), probabilities, medians) for probabilities, medians in table
        )
        rank = 1 + len(ranked) - bisect_right(ranked, points)
        if rank not in known:
            known[rank] = rating_of(rank, contest.ratings)
        total += known[rank]
    return total / draws


def rating(contests: Mapping[str, Contest], *, draws: int = 1000, seed: int = 0) -> float:
    """The mean over contests. Raises ValueError without any."""
    if not contests:
        raise ValueError("no contest: a rating needs the candidates of one at least")
    found = [contest_rating(one, draws=draws, seed=seed) for one in contests.values()]
    return sum(found) / len(found)


def _points(chance: float, probabilities: Sequence[float], medians: Sequence[float]) -> float:
    """The score of a problem for one random number."""
    for failures, probability in enumerate(probabilities):
        if chance < probability:
            return medians[min(failures, len(medians) - 1)] if medians else 0.0
        chance -= probability
    return 0.0
