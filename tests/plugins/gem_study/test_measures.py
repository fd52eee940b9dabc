"""The formulas, against plain ones written anew and against simulated models."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_study.measures import (
    brittleness,
    mean_loss,
    noise,
    rank_correlation,
    spread,
    worst_loss,
)

tables = st.integers(2, 6).flatmap(
    lambda domains: st.lists(
        st.lists(st.floats(-2, 2), min_size=domains, max_size=domains), min_size=2, max_size=8
    )
)


@given(tables)
def test_rows_are_what_the_standard_library_says(rows):
    gain = np.array(rows)
    assert spread(gain) == pytest.approx([statistics.stdev(row) for row in rows], abs=1e-9)
    assert mean_loss(gain) == pytest.approx([-statistics.fmean(row) for row in rows], abs=1e-9)
    assert worst_loss(gain).tolist() == [-min(row) for row in rows]


@given(tables)
def test_brittleness_is_never_more_than_the_spread(rows):
    gain = np.array(rows)
    deviations = [[a - b for a, b in zip(row, rows[0], strict=True)] for row in rows[1:]]
    expected = statistics.fmean(statistics.variance(row) for row in deviations)
    assert noise(gain) ** 2 == pytest.approx(expected, abs=1e-9)
    assert (brittleness(gain) >= 0).all()
    assert (brittleness(gain) <= spread(gain) + 1e-12).all()
    below = max(0.0, statistics.variance(rows[0]) - expected)
    assert brittleness(gain)[0] == pytest.approx(below**0.5, abs=1e-6)


def test_an_even_loss_is_no_brittleness():
    gain = np.full((50, 4), -0.3)
    assert brittleness(gain).max() == 0
    assert mean_loss(gain) == pytest.approx(0.3)


@pytest.mark.parametrize("true", [0.0, 0.1])
def test_noise_is_taken_off_and_what_is_there_stays(true):
    """Gains of 8 domains with a known spread, seen through noise of 0.05, many times over."""
    rng = np.random.default_rng(3)
    truth = true * np.array([1, -1, 1, -1, 1, -1, 1, -1]) / np.std([1, -1] * 4, ddof=1)
    plain, corrected, covered = [], [], 0
    for _ in range(300):
        seen = truth + rng.normal(0, 0.05, size=8)
        gain = np.vstack([seen, seen + rng.normal(0, 0.05, size=(200, 8))])
        rows = brittleness(gain)
        plain.append(float(spread(gain)[0]))
        corrected.append(float(rows[0]) ** 2)
        low, high = np.percentile(rows[1:], [2.5, 97.5])
        covered += low <= true <= high
    assert np.mean(plain) - true > 0.005
    # Of the square, only what is cut at 0 is left of the bias.
    assert np.mean(corrected) == pytest.approx(true**2, abs=0.0006 if true else 0.0008)
    assert covered > 270


def test_ranks_are_correlated_row_by_row():
    def rho(x, y):
        """Without ties: 1 - 6 Σd² / (n (n² - 1))."""
        ranks = [[sorted(values).index(value) for value in values] for values in (x, y)]
        squares = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
        return 1 - 6 * squares / (len(x) * (len(x) ** 2 - 1))

    rng = np.random.default_rng(0)
    compression = np.array([1.9, 2.9, 3.0, 3.7])
    measure = rng.normal(size=(20, 4))
    found = rank_correlation(compression, measure)
    assert found == pytest.approx([rho(compression.tolist(), row) for row in measure.tolist()])
