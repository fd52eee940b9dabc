"""Norm, SwiGLU and rounding: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import activations
from gemcore.models import ops

COLUMNS = 96
EPSILON = 1e-5


def inputs(tokens: int, columns: int) -> torch.Tensor:
    """Rows of varied size: ordinary, huge, tiny, one of zeros and one with zeros in a group."""
    x = 3 * torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))
    sizes = torch.tensor([1, 1e4, 1e-5, 0, 1, 1e-33, 1e-39])
    x *= sizes[torch.arange(tokens) % len(sizes), None]
    if tokens > 4:
        x[4, 32:64] = 0
    return x


@pytest.fixture(scope="module")
def kernels(machine):
    isa = machine.isa
    return {
        "rms_norm": machine.compile(activations.rms_norm(isa, COLUMNS, EPSILON)),
        "rms_norm_quantize": machine.compile(activations.rms_norm_quantize(isa, COLUMNS, EPSILON)),
        "silu_mul": machine.compile(activations.silu_mul(isa, COLUMNS)),
        "silu_mul_quantize": machine.compile(activations.silu_mul_quantize(isa, COLUMNS)),
        "quantize": machine.compile(activations.quantize(isa, COLUMNS)),
    }


def empty(tensors) -> list[torch.Tensor]:
    return [torch.full_like(tensor, 77) for tensor in tensors]


def assert_all_equal(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_rms_norm(kernels, tokens):
    x, gain = inputs(tokens, COLUMNS), torch.linspace(-1, 2, COLUMNS)
    expected = ops.rms_norm(x, gain, EPSILON)
    assert_all_equal(kernels["rms_norm"](x, gain, *empty([x]))[2:], [expected])
    rounded = ops.quantize(expected)
    assert_all_equal(kernels["rms_norm_quantize"](x, gain, *empty(rounded))[2:], rounded)


def test_silu_mul(kernels, tokens):
    x = inputs(tokens, 2 * COLUMNS)
    x[0, :COLUMNS] = torch.linspace(-120, 120, COLUMNS)
    expected = ops.silu_mul(x)
    assert_all_equal(kernels["silu_mul"](x, *empty([expected]))[1:], [expected])
    rounded = ops.quantize(expected)
    assert_all_equal(kernels["silu_mul_quantize"](x, *empty(rounded))[1:], rounded)


def test_quantize(kernels, tokens):
    x = inputs(tokens, COLUMNS)
    x[0, :6] = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5])
    x[0, 6:32] = 0
    rounded = ops.quantize(x)
    assert rounded[0][0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert_all_equal(kernels["quantize"](x, *empty(rounded))[1:], rounded)


def test_exp_over_its_whole_range(kernels):
    """Through SwiGLU, whose every gate takes another exponent."""
    gates = torch.linspace(-90, 90, 300 * COLUMNS).reshape(300, COLUMNS)
    x = torch.cat([gates, torch.ones_like(gates)], dim=1)
    expected = ops.silu_mul(x)
    assert_all_equal(kernels["silu_mul"](x, *empty([expected]))[1:], [expected])
