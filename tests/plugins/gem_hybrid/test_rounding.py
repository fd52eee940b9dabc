"""Calibrated rounding: codes of the scheme, never worse than to the nearest, as GPTQ defines it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_hybrid.rounding import (
    damping_for,
    round_calibrated,
    round_side_by_side,
    rounding_order,
    row_errors,
    search_scales,
)
from gemcore.errors import UsageError
from gemcore.packing import dequantize, pack, quantize, unpack
from gemcore.schemes import SCHEMES, get_scheme

GROUPED = [name for name, scheme in SCHEMES.items() if scheme.grouped]


def correlated(inputs, seed=0):
    """A Hessian of inputs that depend on each other and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) * torch.logspace(-1, 0.5, inputs)
    x = torch.randn(4 * inputs, inputs, generator=generator) @ mix
    return x.T @ x / len(x)


def weights(rows, inputs, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, inputs), dtype=np.float32)


@pytest.mark.parametrize("name", GROUPED)
def test_error_is_far_below_round_to_nearest(name):
    scheme, weight, hessian = get_scheme(name), weights(40, 128), correlated(128)
    found = round_calibrated(weight, rounding_order(hessian, group=scheme.group), scheme)
    ours = row_errors(weight, dequantize(found, scheme), hessian)
    theirs = row_errors(weight, dequantize(quantize(weight, scheme), scheme), hessian)
    assert (ours <= theirs).all()
    assert ours.sum() < 0.55 * theirs.sum()


@pytest.mark.parametrize("name", GROUPED)
def test_the_codes_are_the_schemes_own(name):
    scheme, weight = get_scheme(name), weights(40, 128)
    order = rounding_order(correlated(128), group=scheme.group)
    found = round_calibrated(weight, order, scheme)
    usual = quantize(weight, scheme)
    for ours, theirs in [(found.codes, usual.codes), (found.scales, usual.scales)]:
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
    assert (found.minima is None) == (usual.minima is None)
    assert found.codes.max() < 2**scheme.bits
    again = unpack(pack(found, scheme), scheme, 40)
    np.testing.assert_array_equal(dequantize(again, scheme), dequantize(found, scheme))


@pytest.mark.parametrize("name", GROUPED)
def test_codes_are_those_of_optimal_brain_quantization(name):
    """One group, so that its scales are known: then the codes follow from the textbook's own loop."""
    scheme, inputs = get_scheme(name), get_scheme(name).group
    weight, hessian = weights(8, inputs), correlated(inputs)
    order = rounding_order(hessian, 0.01, group=scheme.group)
    (found,) = round_side_by_side(weight, order, [scheme])
    scale = found.scales[:, 0].astype(np.float64)
    low = np.zeros(8) if found.minima is None else found.minima[:, 0].astype(np.float64)
    damped = hessian.double().numpy() + 0.01 * float(hessian.diagonal().mean()) * np.eye(inputs)
    left, current = list(range(inputs)), weight.astype(np.float64)
    codes = np.zeros((8, inputs))
    for column in order.order.tolist():
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        place = left.index(column)
        code = np.round((current[:, column] - low) / scale) + scheme.offset
        code = np.clip(code, 1 if scheme.bits == 8 else 0, 2**scheme.bits - 1)
        loss = current[:, column] - ((code - scheme.offset) * scale + low)
        current[:, left] -= np.outer(loss, inverse[place] / inverse[place, place])
        codes[:, column] = code
        left.remove(column)
    # Ties may fall either way.
    agree = (codes == found.codes).mean(axis=1)
    assert (agree > 0.95).sum() >= 6


@pytest.mark.parametrize("name", GROUPED)
@given(st.lists(st.floats(-1, 1, width=32, allow_subnormal=False), min_size=64, max_size=64))
@settings(max_examples=10)
def test_searched_scales_are_finite_and_no_worse_than_the_extremes(name, values):
    scheme = get_scheme(name)
    column = torch.tensor(values[: scheme.group], dtype=torch.float32)[:, None]
    column *= 20 if scheme.byte_factors else 1e4
    scales, minima = search_scales(column, torch.ones(scheme.group), scheme)
    assert torch.isfinite(scales).all()
    assert torch.isfinite(minima).all()
    usual = quantize(column.T.numpy(), scheme)
    nearest = float(np.square(dequantize(usual, scheme) - column.T.numpy()).sum())
    order = rounding_order(torch.eye(scheme.group), group=scheme.group)
    best = round_calibrated(column.T.numpy().copy(), order, scheme)
    ours = float(np.square(dequantize(best, scheme) - column.T.numpy()).sum())
    assert ours <= nearest * (1 + 1e-5)


def test_dead_inputs_and_hessians_without_full_rank():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 0
    hessian, scheme, weight = x.T @ x, get_scheme("q4a-g32"), weights(16, 64)
    found = dequantize(round_calibrated(weight, rounding_order(hessian, 0.0), scheme), scheme)
    usual = dequantize(quantize(weight, scheme), scheme)
    assert row_errors(weight, found, hessian).sum() < row_errors(weight, usual, hessian).sum()
    nothing = rounding_order(torch.zeros(64, 64))
    assert np.abs(dequantize(round_calibrated(weight, nothing, scheme), scheme)).max() > 0


@pytest.mark.parametrize("group", [32, 64])
def test_the_order_keeps_the_columns_of_a_group_together(group):
    order = rounding_order(correlated(192), group=group).order.reshape(-1, group)
    assert sorted(order.flatten().tolist()) == list(range(192))
    assert {len(set((row // group).tolist())) for row in order} == {1}


def test_what_is_not_finite_is_refused():
    scheme = get_scheme("q4a-g32")
    with pytest.raises(UsageError, match="activations that are not finite"):
        rounding_order(torch.full((32, 32), torch.nan))
    order = rounding_order(torch.eye(32))
    with pytest.raises(UsageError, match="NaN or infinite"):
        round_calibrated(np.full((4, 32), np.nan, np.float32), order, scheme)
    with pytest.raises(UsageError, match="too large to be of use"):
        round_calibrated(np.full((4, 32), 1e9, np.float32), order, scheme)


def test_damping_is_less_the_more_text_there_is():
    assert damping_for(576, 8192, 0.5) == 0.5
    assert damping_for(1024, 8192) == 0.1875
    assert damping_for(1024, 8192, factor=3) == 0.375
    assert damping_for(1024, 100) == 1.0
    assert damping_for(64, 10**6) == 0.05
