"""Routed experts: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import experts
from gemcore.models import ops

EXPERTS, INPUTS = 3, 64


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[(4, 48), (16, 48), (6, 40)], ids=str)
def case(machine, request):
    rank, outputs = request.param
    kernel = experts.routed_lora(machine.isa, EXPERTS, INPUTS, rank, outputs)
    return rank, outputs, machine.compile(kernel)


def test_routed_lora(case, tokens):
    rank, outputs, kernel = case
    x, y = random(tokens, INPUTS, seed=1), random(tokens, outputs, seed=2)
    weights = random(tokens, EXPERTS, seed=tokens).relu()
    weights[-1] = 0
    down, up = random(EXPERTS, INPUTS, rank, seed=3), random(EXPERTS, rank, outputs, seed=4)
    expected = ops.routed_lora(x, y, weights, down, up)
    found = kernel(x, y, weights, down, up, torch.zeros_like(y))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
    np.testing.assert_array_equal(found[-1], y[-1].numpy())


def test_an_expert_that_does_not_work_is_not_read(case):
    rank, outputs, kernel = case
    x, y = random(2, INPUTS, seed=1), random(2, outputs, seed=2)
    weights = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    down, up = random(EXPERTS, INPUTS, rank, seed=3), random(EXPERTS, rank, outputs, seed=4)
    expected = ops.routed_lora(x, y, weights, down, up)
    down[0] = up[0] = torch.nan
    found = kernel(x, y, weights, down, up, torch.zeros_like(y))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
