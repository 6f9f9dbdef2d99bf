"""The rating procedure against counting every draw, and the Elo equation that it solves."""

import itertools

import pytest

from dsv4.eval.codeforces import Contest, Problem, chances, contest_rating, rating, rating_of


def test_chances_count_every_draw():
    right, candidates, drawn = 2, 5, 3
    passed = [True] * right + [False] * (candidates - right)
    draws = list(itertools.permutations(passed, drawn))
    for k, found in enumerate(chances(right, candidates, drawn)):
        exact = sum(d[k] and not any(d[:k]) for d in draws) / len(draws)
        assert found == pytest.approx(exact)


def test_all_right_and_none():
    assert chances(32, 32)[0] == 1.0 and sum(chances(0, 32)) == 0.0


def test_a_rank_among_equals():
    ratings = [1500.0] * 9
    assert rating_of(5.5, ratings) == pytest.approx(1500, abs=1e-6)
    assert rating_of(1.9, ratings) == pytest.approx(1500 + 400 * 0.9542425, abs=1e-3)
    assert rating_of(2, ratings) < rating_of(1.5, ratings)


def test_a_contest_by_hand():
    humans = {"points": [300.0, 200.0, 100.0, 0.0], "ratings": [2400.0, 2000.0, 1600.0, 1200.0]}
    solved = Problem([True] * 32, [250.0, 200.0])
    never = Problem([False] * 32, [500.0])
    sure = Contest([solved, never], **humans)
    assert contest_rating(sure, draws=5) == pytest.approx(rating_of(2, humans["ratings"]))
    chance = Contest([Problem([True] * 16 + [False] * 16, [350.0, 50.0])], **humans)
    found = contest_rating(chance, draws=20_000)
    first, later, failed = (rating_of(rank, humans["ratings"]) for rank in (1, 4, 4))
    p = chances(16, 32)
    exact = p[0] * first + sum(p[1:]) * later + (1 - sum(p)) * failed
    assert found == pytest.approx(exact, rel=0.01)
    assert rating({"a": sure, "b": sure}, draws=5) == pytest.approx(contest_rating(sure, draws=5))


def test_no_contest():
    with pytest.raises(ValueError, match="no contest"):
        rating({})
