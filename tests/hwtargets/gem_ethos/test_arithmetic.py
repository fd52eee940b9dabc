"""Integer arithmetic as TOSA prescribes it, against exact fractions and against float32."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gem_ethos.arithmetic import Rescale, make_feed_forward, make_linear, round_rows


@given(factor=st.floats(1e-12, 0.9), sums=st.lists(st.integers(-(2**24), 2**24), min_size=1))
def test_rescale_is_the_product_rounded_half_up(factor, sums):
    rescale = Rescale.of(np.array([factor]))
    found = rescale(np.array(sums, np.int32))
    exact = Fraction(int(rescale.multiplier[0]), 2 ** int(rescale.shift[0]))
    if rescale.multiplier[0]:
        assert abs(exact / Fraction(factor) - 1) < Fraction(1, 2**30)
    for value, total in zip(found.tolist(), sums, strict=True):
        rounded = (total * exact + Fraction(1, 2)).__floor__()
        assert value == max(-128, min(127, rounded))


def test_rows_keep_their_largest_value():
    weight = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    codes, scales = round_rows(weight)
    np.testing.assert_array_equal(np.abs(codes).max(axis=1), 127)
    np.testing.assert_allclose(codes * scales[:, None], weight, atol=scales.max() / 2 * 1.001)


def test_products_and_feed_forward_come_near_float32():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 64)).astype(np.float32)
    gate_up = rng.standard_normal((192, 64)).astype(np.float32) / 8
    down = rng.standard_normal((64, 96)).astype(np.float32) / 9
    bias = rng.standard_normal(192).astype(np.float32)

    def step(values):
        return float(np.abs(values).max()) / 127

    codes = np.clip(np.rint(x / step(x)), -127, 127).astype(np.int8)
    wide = x @ gate_up.T
    part = make_linear(gate_up, step(x), step(wide + bias), bias)
    assert np.abs(part(codes) * step(wide + bias) - (wide + bias)).max() < 3 * step(wide + bias)
    gate, up = np.split(wide, 2, axis=1)
    middle = gate / (1 + np.exp(-gate)) * up
    wanted = middle @ down.T
    scales = (step(x), step(gate), step(up), step(middle), step(wanted))
    found = make_feed_forward(gate_up, down, scales)(codes) * step(wanted)
    assert np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()
