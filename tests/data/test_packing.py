"""Rows hold every piece once, none too much; truncation falls against documents end to end."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4.data.packing import best_fit


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=80))
def test_every_length_stands_in_one_row_that_has_room(lengths):
    rows = best_fit(lengths, 50)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= 50 for row in rows)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=40))
def test_rows_are_those_of_the_quadratic_rule(lengths):
    """The row with the least room left that is enough, longest pieces first."""
    left = []
    for length in sorted(lengths, reverse=True):
        fits = [room for room in left if room >= length]
        if fits:
            left.remove(min(fits))
        left.append((min(fits) if fits else 50) - length)
    rows = best_fit(lengths, 50)
    assert sorted(left) == sorted(50 - sum(lengths[i] for i in row) for row in rows)


def test_rows_are_few():
    rng = random.Random(0)
    lengths = [min(512, int(rng.lognormvariate(4.5, 1))) or 1 for _ in range(5000)]
    assert len(best_fit(lengths, 512)) <= 1.01 * sum(lengths) / 512 + 1
