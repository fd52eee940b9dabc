"""The formulas against loops written from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_tradeoff.measures import (
    LEAST_DENOMINATOR,
    forgetting,
    gains,
    generalization_gap,
    specialization_index,
    transfer_ratio,
)
from gemcore.errors import GemError

scores = st.floats(0.05, 1)


@st.composite
def cases(draw):
    domains = draw(st.integers(2, 6))
    base, special = (draw(st.lists(scores, min_size=domains, max_size=domains)) for _ in range(2))
    return base, special, draw(st.integers(0, domains - 1))


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


@given(cases())
def test_scores(case):
    base, special, own = case
    others = [b for b in range(len(base)) if b != own]
    gain = [(special[b] - base[b]) / base[b] for b in range(len(base))]
    dsi = gain[own] - mean(gain[b] for b in others)
    gap = (special[own] - mean(special[b] for b in others)) - (
        base[own] - mean(base[b] for b in others)
    )
    ratio = mean(special[b] / base[b] for b in others)
    lost = mean(max(0.0, -gain[b]) for b in others)

    base, special = np.array(base), np.array(special)
    found = gains(base, special)
    assert found == pytest.approx(gain)
    assert specialization_index(found, own) == pytest.approx(dsi, abs=1e-9)
    assert generalization_gap(base, special, own) == pytest.approx(gap, abs=1e-9)
    assert transfer_ratio(base, special, own) == pytest.approx(ratio)
    assert forgetting(found, own) == pytest.approx(lost, abs=1e-9)


@given(cases())
def test_bits_per_byte_have_their_sign_turned(case):
    base, special, own = case
    others = [b for b in range(len(base)) if b != own]
    gain = [(base[b] - special[b]) / base[b] for b in range(len(base))]
    gap = -(
        (special[own] - mean(special[b] for b in others))
        - (base[own] - mean(base[b] for b in others))
    )
    ratio = mean(base[b] / special[b] for b in others)

    base, special = np.array(base), np.array(special)
    assert gains(base, special, lower_is_better=True) == pytest.approx(gain)
    found = generalization_gap(base, special, own, lower_is_better=True)
    assert found == pytest.approx(gap, abs=1e-9)
    assert transfer_ratio(base, special, own, lower_is_better=True) == pytest.approx(ratio)


@given(cases())
def test_leading_axes_are_resamples(case):
    base, special, own = case
    base, special = np.array([base, special]), np.array([special, base])
    for row in (0, 1):
        alone = gains(base[row], special[row])
        assert gains(base, special)[row].tolist() == alone.tolist()
        every = specialization_index(gains(base, special), own)
        assert every.shape == (2,)
        assert every[row] == specialization_index(alone, own)


def test_nothing_changed_is_neutral():
    base = np.array([0.2, 0.5, 0.9])
    gain = gains(base, base)
    assert gain.tolist() == [0, 0, 0]
    assert specialization_index(gain, 1) == 0
    assert generalization_gap(base, base, 1) == 0
    assert transfer_ratio(base, base, 1) == 1
    assert forgetting(gain, 1) == 0


@pytest.mark.parametrize("score", [0.0, -0.2, 0.99 * LEAST_DENOMINATOR, math.nan])
def test_a_denominator_too_near_zero_is_an_error_with_both_numbers(score):
    with pytest.raises(GemError, match=r"too near zero to divide by \(the least is 0\.01\)"):
        gains(np.array([0.5, score]), np.array([0.5, 0.5]))
    with pytest.raises(GemError, match=f"a score of {score:.4g} is"):
        transfer_ratio(np.array([0.5, score]), np.array([0.5, 0.5]), 0)


def test_one_domain_is_too_few():
    with pytest.raises(GemError, match="at least 2 domains to compare, and there is 1"):
        specialization_index(np.array([0.1]), 0)
