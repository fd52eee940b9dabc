"""The arithmetic under the operations, against exact fractions and Python's own functions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gemcore.models import reference

floats = st.floats(-(2.0**40), 2.0**40, width=32)


def nearest_float32(exact: Fraction) -> np.float32:
    """The float32 number nearest to `exact`, half to even, by comparing fractions alone."""
    guess = np.float32(float(exact))
    near = [
        np.nextafter(guess, np.float32(-np.inf)),
        guess,
        np.nextafter(guess, np.float32(np.inf)),
    ]
    return min(near, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1))


def is_nearly_halfway(exact: Fraction) -> bool:
    """Whether rounding to float64 first may hide on which side of a middle `exact` lies."""
    down, up = (
        np.nextafter(nearest_float32(exact), np.float32(side)) for side in (-np.inf, np.inf)
    )
    near = Fraction(float(nearest_float32(exact)))
    middles = [(near + Fraction(float(other))) / 2 for other in (down, up)]
    return any(0 < abs(exact - middle) <= abs(exact) / 2**53 for middle in middles)


@given(st.floats(-200, 0, width=32))
def test_exp2_is_right_to_a_fifth_of_half_a_step(x):
    found = reference.exp2(torch.tensor([x], dtype=torch.float32)).item()
    assert found == pytest.approx(2.0 ** (24 + max(x, -100.0)), rel=3e-6)


def test_exp2_of_nothing_is_one_in_its_units():
    assert reference.exp2(torch.zeros(1)).item() == 2.0**24


def fma(a: float, b: float, c: float) -> np.float32:
    tensors = (torch.tensor([x], dtype=torch.float32) for x in (a, b, c))
    return reference.fma(*tensors).numpy()[0]


@settings(max_examples=300, deadline=None)
@given(a=floats, b=floats, c=floats)
@example(a=1 + 2.0**-23, b=1 - 2.0**-23, c=-1.0)  # only the exact product tells it from zero
@example(a=2.0**-12, b=2.0**-12, c=1.0)  # a tie goes to the even neighbour
@example(a=3 * 2.0**-12, b=2.0**-12, c=1.0)
def test_fma_rounds_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = fma(a, b, c)
    if is_nearly_halfway(exact):
        # As documented: one of the two neighbours.
        near = nearest_float32(exact)
        assert result in (np.nextafter(near, np.float32(-np.inf)), near,
                          np.nextafter(near, np.float32(np.inf)))  # fmt: skip
    else:
        assert result == nearest_float32(exact)


def test_fma_is_not_a_product_and_a_sum():
    a, b, c = np.float32(1 + 2.0**-23), np.float32(1 - 2.0**-23), np.float32(-1)
    assert a * b + c == 0
    assert fma(a, b, c) == np.float32(-(2.0**-46))


def test_exp_is_right_to_two_units_in_the_last_place():
    x = np.unique(np.concatenate([np.linspace(-87, 88, 20001), np.linspace(-1, 1, 2001), [0.0]]))
    x = x.astype(np.float32)
    result = reference.exp(torch.from_numpy(x)).numpy()
    expected = np.array([math.exp(float(value)) for value in x])
    unit = np.spacing(expected.astype(np.float32)).astype(float)
    assert (np.abs(result - expected) <= 2 * unit).all()
    assert result[x == 0].item() == 1.0


def test_exp_is_clamped_at_both_ends():
    result = reference.exp(torch.tensor([-1e9, -torch.inf, 1e9])).tolist()
    assert result[0] == result[1] == pytest.approx(math.exp(-87), rel=1e-6)
    assert result[2] == pytest.approx(math.exp(88), rel=1e-6)


def test_ordered_matmul_adds_in_ascending_order():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 40)).astype(np.float32)
    weight = generator.standard_normal((40, 5)).astype(np.float32)
    start = generator.standard_normal((3, 5)).astype(np.float32)
    result = reference.ordered_matmul(*map(torch.from_numpy, (x, weight, start))).numpy()
    for t in range(3):
        for n in range(5):
            total = start[t, n]
            for k in range(40):
                exact = Fraction(float(x[t, k])) * Fraction(float(weight[k, n]))
                total = nearest_float32(exact + Fraction(float(total)))
            assert result[t, n] == total
