"""Resampling: what is drawn, and the intervals that come of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_tradeoff.bootstrap import (
    Estimate,
    estimate,
    estimate_of_losses,
    item_weights,
    quotients,
)


@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 5))
def test_weights_are_counts_of_draws(items, resamples, seed):
    weights = item_weights("task", items, resamples, seed)
    assert weights.shape == (1 + resamples, items)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == items).all()
    assert (weights >= 0).all()
    assert (weights == weights.round()).all()


def test_draws_depend_on_task_and_seed_alone():
    weights = item_weights("task", 30, 50, 1)
    assert (weights == item_weights("task", 30, 50, 1)).all()
    assert (weights != item_weights("other", 30, 50, 1)).any()
    assert (weights != item_weights("task", 30, 50, 2)).any()


def test_every_item_is_as_likely_as_any_other():
    weights = item_weights("task", 10, 20_000, 0)[1:]
    # A multinomial draw: mean 1, variance 1 - 1/n, covariance -1/n.
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.04)
    expected = np.full((10, 10), -0.1) + np.eye(10)
    assert np.cov(weights.T) == pytest.approx(expected, abs=0.05)


@given(st.integers(0, 100))
def test_quotients_are_scores_of_the_drawn_items(seed):
    rng = np.random.default_rng(seed)
    weights = item_weights("task", 6, 4, seed)
    above, below = rng.random((3, 6)), rng.random((3, 6))
    found = quotients(weights, above, below)
    for row in range(5):
        drawn = [item for item in range(6) for _ in range(int(weights[row, item]))]
        for model in range(3):
            score = math.fsum(above[model, i] for i in drawn) / math.fsum(
                below[model, i] for i in drawn
            )
            assert found[row, model] == pytest.approx(score)


def test_nothing_found_and_nothing_there_is_zero():
    assert quotients(np.ones((1, 2)), np.zeros((1, 2)), np.zeros((1, 2))).tolist() == [[0.0]]


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(5).normal(0.3, 1, 400)
    weights = item_weights("task", 400, 4000, 0)
    found = estimate(quotients(weights, values[None], np.ones((1, 400)))[:, 0])
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.008)
    assert found.high == pytest.approx(values.mean() + half, abs=0.008)


def losses_of(gain):
    return estimate_of_losses(np.maximum(0, -gain).mean(axis=-1), gain)


@given(st.integers(1, 7), st.integers(0, 1000))
def test_the_interval_of_losses_holds_the_value_and_is_not_below_zero(domains, seed):
    gain = np.random.default_rng(seed).normal(0, 1, (50, domains))
    found = losses_of(gain)
    assert 0 <= found.low <= found.value <= found.high
    assert found.value == pytest.approx(math.fsum(max(0.0, -g) for g in gain[0]) / domains)


@pytest.mark.parametrize("gains", [[0.0] * 7, [-0.1] * 7, [-0.4, *[0.1] * 6], [-0.2, -0.1, 0.0]])
def test_the_interval_of_losses_holds_the_truth(gains):
    """In 95 % of the cases or more, wherever the gains lie; most of all where none is lost."""
    rng = np.random.default_rng(0)
    truth = sum(max(0.0, -gain) for gain in gains) / len(gains)
    held = 0
    for _ in range(200):
        observed = rng.normal(gains, 0.05)
        found = losses_of(np.vstack([observed, rng.normal(observed, 0.05, (400, len(gains)))]))
        held += found.low <= truth <= found.high
    assert held >= 190


@pytest.mark.parametrize("gains", [[-0.1] * 7, [-0.4, *[0.1] * 6]])
def test_real_losses_are_seen_though_others_gain(gains):
    rng = np.random.default_rng(0)
    found = losses_of(np.vstack([gains, rng.normal(gains, 0.05, (2000, 7))]))
    assert found.low > 0.02


def test_losses_without_spread():
    found = losses_of(np.full((5, 2), -0.25))
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)]
)
def test_excludes_zero(low, high, excludes):
    assert Estimate((low + high) / 2, low, high).excludes_zero is excludes
