"""Routed experts: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import experts
from gemcore.models import ops

INPUTS = 160
"""Five groups: not a multiple of the sums that are worked on at the same time."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse(tokens: int, count: int) -> torch.Tensor:
    """Routing weights, with a row of zeros, and rows of several experts."""
    weights = random(tokens, count, seed=tokens).relu()
    if count > 8:  # of many experts, few work
        weights[:, 2:-1] = 0
    weights[-1] = 0
    return weights


class Case:
    """A kernel, the operation that it is of, and its deltas."""

    def __init__(self, machine, rounded: bool, count: int, inputs: int, rank: int, outputs: int):
        make = experts.routed_lora_q8 if rounded else experts.routed_lora
        self.operation = ops.routed_lora_q8 if rounded else ops.routed_lora
        self.rounded, self.count, self.inputs, self.outputs = rounded, count, inputs, outputs
        self.kernel = machine.compile(make(machine.isa, count, inputs, rank, outputs))
        self.down = random(count, inputs, rank, seed=3).half()
        self.up = random(count, rank, outputs, seed=4).half()

    def inputs_of(self, tokens: int) -> tuple[torch.Tensor, ...]:
        x = random(tokens, self.inputs, seed=1)
        y = random(tokens, self.outputs, seed=2)
        return (*(ops.quantize(x)[:2] if self.rounded else (x,)), y)

    def found(self, *arguments: torch.Tensor) -> np.ndarray:
        return self.kernel(*arguments)[len(arguments) - 4]


CASES = {
    "rank 16": (True, 3, INPUTS, 16, 64),
    "rank 6, 40 wide": (True, 3, 64, 6, 40),
    "rank 5": (True, 3, 96, 5, 48),
    "64 experts": (True, 64, 64, 4, 48),
    "float": (False, 3, INPUTS, 16, 64),
    "float, a group that is not whole": (False, 3, 80, 4, 40),
}


@pytest.fixture(scope="module", params=CASES)
def case(machine, request) -> Case:
    return Case(machine, *CASES[request.param])


def test_routed_lora(case, tokens):
    *x, y = case.inputs_of(tokens)
    weights = sparse(tokens, case.count)
    arguments = (*x, y, weights, case.down, case.up)
    found = case.found(*arguments)
    np.testing.assert_array_equal(found, case.operation(*arguments).numpy())
    np.testing.assert_array_equal(found[-1], y[-1].numpy())


@pytest.mark.parametrize("tokens", [1, 21])
def test_an_expert_that_does_not_work_is_not_read(case, tokens):
    *x, y = case.inputs_of(tokens)
    weights = torch.zeros(tokens, case.count)
    weights[::2, 1] = 0.5

    def arguments(down, up):
        return (*x, y, weights, down, up)

    expected = case.operation(*arguments(case.down, case.up))
    down, up = case.down.clone(), case.up.clone()
    for e in {*range(case.count)} - {1}:
        down[e] = up[e] = torch.nan
    found = case.found(*arguments(down, up))
    np.testing.assert_array_equal(found, expected.numpy())
    # Tokens that it does not work for are untouched by it, too.
    down[:] = up[:] = torch.nan
    found = case.found(*arguments(down, up))
    np.testing.assert_array_equal(found[1::2], y[1::2].numpy())
