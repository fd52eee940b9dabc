"""Rank correlation against its definition in plain loops."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gem_tradeoff import correlation
from gem_tradeoff.correlation import mean_ranks, spearman, spearman_rows
from gemcore.errors import UsageError

few = st.integers(0, 6).map(float)


def ranks_by_hand(values):
    """The mean of the places that equal values take in sorted order."""
    order = sorted(values)
    return [
        statistics.fmean(place for place, other in enumerate(order, start=1) if other == value)
        for value in values
    ]


def spearman_by_hand(x, y):
    return statistics.correlation(ranks_by_hand(x), ranks_by_hand(y))


@given(st.lists(few, min_size=1, max_size=12))
def test_ranks(values):
    assert mean_ranks(np.array([values]))[0].tolist() == pytest.approx(ranks_by_hand(values))


def test_ranks_in_several_blocks(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 4, (7, 5)).astype(float)
    whole = mean_ranks(rows)
    monkeypatch.setattr(correlation, "_CELLS", 50)
    assert (mean_ranks(rows) == whole).all()


@given(st.lists(st.tuples(few, few), min_size=3, max_size=12))
def test_correlation(pairs):
    x, y = zip(*pairs, strict=True)
    assume(len(set(x)) > 1 < len(set(y)))
    found = spearman(x, y, resamples=200)
    assert found.value == pytest.approx(spearman_by_hand(x, y), abs=1e-12)
    assert -1 <= found.low <= found.high <= 1


def test_the_formula_without_ties():
    x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    squares = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    assert spearman(x, y).value == pytest.approx(1 - 6 * squares / (5 * 24))


def test_monotone_is_one():
    x = np.arange(8.0)
    assert spearman(x, np.exp(x)).value == 1
    assert spearman(x, -(x**3)).high == -1


def test_the_interval_is_that_of_theory():
    """Fisher's transformation gives nearly the same for many pairs."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=150)
    found = spearman(x, x + rng.normal(size=150))
    half = 1.96 * math.sqrt((1 + found.value**2 / 2) / 147)
    centre = math.atanh(found.value)
    assert found.low == pytest.approx(math.tanh(centre - half), abs=0.04)
    assert found.high == pytest.approx(math.tanh(centre + half), abs=0.04)


def test_rows_with_one_common_side():
    rows = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    found = spearman_rows(np.array([1.0, 2.0, 3.0]), rows)
    assert found[:2].tolist() == pytest.approx([-0.5, 1.0])
    assert math.isnan(found[2])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least 3 pairs: there are 2 x and 2 y"),
        ([1, 2, 3], [1, 2], "there are 3 x and 2 y"),
        ([1, 1, 1], [1, 2, 3], "all x are 1"),
        ([1, 2, 3], [1, 2, math.nan], "y must be a list of finite numbers"),
        ([[1, 2, 3]], [1, 2, 3], "x must be a list of finite numbers"),
    ],
)
def test_what_has_no_correlation(x, y, message):
    with pytest.raises(UsageError, match=message):
        spearman(x, y)
