"""Small dense products: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import dense
from gemcore.models import ops


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[(96, 64), (80, 8), (31, 7), (64, 144)], ids=str)
def case(machine, request):
    inputs, outputs = request.param
    return inputs, outputs, machine.compile(dense.linear_f32(machine.isa, inputs, outputs))


def test_linear_f32(case, tokens):
    inputs, outputs, kernel = case
    x, weight = random(tokens, inputs, seed=1), random(inputs, outputs, seed=2)
    expected = ops.linear_f32(x, weight)
    found = kernel(x, weight, torch.zeros(tokens, outputs))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
    torch.testing.assert_close(expected, x @ weight, rtol=1e-4, atol=1e-4)
