"""Places, counts and keep rates."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrim.core.schedule import ceil_count, check_keep, check_places, cosine_keep, even_places, floor_count, rate_at


@pytest.mark.parametrize(
    ("depth", "places", "expected"),
    [
        (12, 3, (3, 6, 9)),  # the papers' 4th, 7th, 10th
        (16, 3, (4, 8, 12)),  # 5, 9, 13
        (20, 3, (5, 10, 15)),  # 6, 11, 16
        (24, 3, (6, 12, 18)),
        (12, 1, (6,)),
        (12, 5, (2, 4, 6, 8, 10)),
        (4, 3, (1, 2, 3)),
        (12, 11, tuple(range(1, 12))),
    ],
)
def test_even_places(depth, places, expected):
    assert even_places(depth, places) == expected


@given(st.integers(2, 60), st.integers(1, 20))
def test_even_places_fit_any_depth(depth, places):
    if depth <= places:
        with pytest.raises(ValueError, match=f"{depth} blocks has no room for {places} places"):
            even_places(depth, places)
        return
    cut = even_places(depth, places)
    assert check_places(cut, depth) == cut and len(cut) == places and cut[0] > 0


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 5000))
def test_counts_are_those_of_exact_arithmetic(over, under, n):
    """0.7 * 10 is 7.000000000000001 in floating point; counts are those of 7/10."""
    if over > under:
        over, under = under, over
    share, exact = over / under, Fraction(over, under) * n
    assert ceil_count(share, n) == math.ceil(exact)
    assert ceil_count(1e-300, n) == min(n, 1) and ceil_count(0.0, n) == 0
    assert floor_count(share, n) == math.floor(exact)


def test_counts_of_the_papers():
    assert [ceil_count(0.7, n) for n in (196, 139, 99)] == [138, 98, 70]
    assert [ceil_count(0.7, n) for n in (138, 97)] == [97, 68]
    assert [floor_count(0.7**j, 196) for j in (1, 2, 3)] == [137, 96, 67]


def test_places_as_they_may_be_given():
    assert check_places(3, 12) == (3,)
    assert check_places(range(0, 12, 4), 12) == (0, 4, 8)
    assert check_places([1, 2], 3) == (1, 2)


def test_keep_as_it_may_be_given():
    assert check_keep(1) == 1.0 and isinstance(check_keep(1), float)
    assert check_keep([0.5, 1], 2) == (0.5, 1.0)
    assert [rate_at(0.7, 2), rate_at((0.9, 0.5), 1), rate_at((0.6,), 4)] == [0.7, 0.5, 0.6]


def test_cosine_keep_is_evits_warm_up():
    """rate(i) = k + (1 - k) (1 + cos(pi i / T)) / 2, flat 1 before, flat k after (spec of EViT's training)."""
    rates = [cosine_keep(0.5, step, start=10, steps=100) for step in range(150)]
    assert rates[:11] == [1.0] * 11 and rates[110:] == [0.5] * 40
    assert rates[60] == pytest.approx(0.75)
    assert rates[35] == pytest.approx(0.5 + 0.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates == sorted(rates, reverse=True)
    assert [cosine_keep(0.7, step, start=0, steps=0) for step in (0, 5)] == [0.7, 0.7]
