"""Other ranks: exact upwards, the best possible downwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import FormatError, UsageError
from gemcore.experts.ranks import change_norm, halves, product_norm, to_rank, truncated
from gemcore.testing.experts import tiny_expert


def delta(expert, unit):
    down, up = (expert.tensors[f"{unit}.{part}"].astype(np.float64) for part in ("down", "up"))
    return down @ up


def test_a_larger_rank_is_exact(expert):
    larger, change = to_rank(expert, 7)
    assert larger.card.rank == 7
    assert (change.before, change.after, change.error) == (4, 7, 0)
    for unit in expert.card.units:
        assert larger.tensors[f"{unit}.down"].shape[1] == larger.tensors[f"{unit}.up"].shape[0] == 7
        np.testing.assert_array_equal(delta(larger, unit), delta(expert, unit))
    assert larger.card.scores == expert.card.scores
    back, change = to_rank(larger, 4)
    assert change.error < 1e-3
    for unit in expert.card.units:
        np.testing.assert_allclose(delta(back, unit), delta(expert, unit), atol=1e-3)


def test_a_smaller_rank_is_the_nearest_and_says_how_far_it_is(expert):
    smaller, change = to_rank(expert, 2)
    squares, whole, worst = 0.0, 0.0, ("", 0.0)
    for unit in expert.card.units:
        full = delta(expert, unit)
        lost = np.linalg.svd(full, compute_uv=False)[2:]
        error = np.linalg.norm(delta(smaller, unit) - full)
        # Eckart and Young's bound, and what rounding adds to it.
        assert error == pytest.approx(np.linalg.norm(lost), rel=1e-3)
        relative = error / np.linalg.norm(full)
        assert change.unit_errors[unit] == pytest.approx(relative, rel=1e-6)
        worst = max(worst, (unit, relative), key=lambda pair: pair[1])
        squares, whole = squares + error**2, whole + np.linalg.norm(full) ** 2
    assert change.error == pytest.approx((squares / whole) ** 0.5, rel=1e-6)
    assert change.worst_unit == worst[0]
    note = smaller.card.scores["converted"]
    assert note["from_rank"] == 4
    assert note["relative_error"] == pytest.approx(change.error, rel=1e-2)


def test_deltas_of_zero_have_no_error(tiny):
    expert = tiny_expert("nothing", tiny, scale=0)
    smaller, change = to_rank(expert, 1)
    assert change.error == 0
    assert not any(delta(smaller, unit).any() for unit in expert.card.units)


@pytest.mark.parametrize("rank", [0, -1, 1025])
def test_impossible_ranks(expert, rank):
    with pytest.raises(UsageError, match=f"from 1 to 1024, not {rank}"):
        to_rank(expert, rank)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
def test_norms_without_the_product(rows, columns, rank, seed):
    generator = np.random.default_rng(seed)
    factors = [
        (generator.standard_normal((rows, rank)), generator.standard_normal((rank, columns)))
        for _ in range(2)
    ]
    products = [down @ up for down, up in factors]
    assert product_norm(*factors[0]) == pytest.approx(np.linalg.norm(products[0]))
    difference = np.linalg.norm(products[0] - products[1])
    assert change_norm(*factors) == pytest.approx(difference)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 12))
def test_truncation_against_the_svd_of_the_product(rows, columns, inner, rank):
    generator = np.random.default_rng(rows * 97 + columns)
    down, up = generator.standard_normal((rows, inner)), generator.standard_normal((inner, columns))
    new_down, new_up = truncated(down, up, rank)
    assert (new_down.shape, new_up.shape) == ((rows, rank), (rank, columns))
    u, singular, v = np.linalg.svd(down @ up, full_matrices=False)
    singular[rank:] = 0
    np.testing.assert_allclose(new_down @ new_up, (u * singular) @ v, atol=1e-9)


@given(st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 99))
def test_rounding_to_halves_shares_out_the_sizes(left, right, seed):
    """Where the product has a size that float16 can hold, each factor keeps eleven bits."""
    if not -24 < left + right < 24:
        left = -right
    generator = np.random.default_rng(seed)
    down = generator.standard_normal((8, 3)) * 2.0**left
    up = generator.standard_normal((3, 5)) * 2.0**right
    new_down, new_up = halves(down, up, what="x")
    exact = np.linalg.norm(down @ up)
    assert change_norm((down, up), (new_down, new_up)) <= 2e-2 * exact + 1e-12
    largest = [np.abs(values.astype(np.float64)).max() for values in (new_down, new_up)]
    assert 1 / 8 < largest[0] / largest[1] < 8 or max(largest) < 1e-4


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(FormatError, match="x has deltas too large for float16"):
        halves(np.full((2, 1), 1e8), np.full((1, 2), 1e8), what="x")
    with pytest.raises(FormatError, match="x holds NaN"):
        halves(np.full((2, 1), np.nan), np.ones((1, 2)), what="x")
    # A component that is zero on one side does nothing, however large the other is.
    down, up = halves(np.zeros((2, 1)), np.full((1, 2), 1e8), what="x")
    assert not down.any()
    assert not up.any()
