"""Coordinate descent: it lowers the error that it is to lower, and ends where no single code can."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from gem_hybrid.grid import make_grid
from gem_hybrid.rounding import round_side_by_side, rounding_order
from gemcore.packing import dequantize
from gemcore.schemes import SCHEMES, get_scheme

GROUPED = [name for name, scheme in SCHEMES.items() if scheme.grouped]
INPUTS = 128


@pytest.fixture(scope="module")
def problem():
    """A weight `[8, in]` and the Hessian of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(INPUTS, INPUTS, generator=generator) * torch.logspace(-1, 0.5, INPUTS)
    x = torch.randn(4 * INPUTS, INPUTS, generator=generator) @ mix
    weight = np.random.default_rng(1).standard_normal((8, INPUTS), dtype=np.float32)
    return weight, x.T @ x / len(x)


def errors(problem, scheme, passes):
    """Each row's error in the damped Hessian, in float64, and what was found."""
    weight, hessian = problem
    order = rounding_order(hessian, 0.2, scheme.group)
    (found,) = round_side_by_side(weight, order, [scheme], passes)
    damped = hessian.double().numpy() + order.damping * np.eye(INPUTS)
    delta = dequantize(found, scheme).astype(np.float64) - weight
    return ((delta @ damped) * delta).sum(1), found, damped


@pytest.mark.parametrize("name", GROUPED)
def test_every_pass_lowers_the_error(name, problem):
    sums = [errors(problem, get_scheme(name), passes)[0] for passes in (0, 1, 2, 4)]
    for before, after in pairwise(sums):
        assert (after <= before * (1 + 1e-4)).all()
    assert sums[2].sum() < 0.995 * sums[0].sum()


@pytest.mark.parametrize("name", ["q2a-g64", "q3s-g64", "q4a-g32", "q5s-g32", "q8-g64"])
def test_in_the_end_no_single_code_is_better(name, problem):
    scheme = get_scheme(name)
    least, found, damped = errors(problem, scheme, 60)
    grid = make_grid([scheme], 1)
    scales = found.scales.astype(np.float64).repeat(scheme.group, axis=1)
    delta = dequantize(found, scheme).astype(np.float64) - problem[0]
    for way in (-1, 1):
        codes = found.codes.astype(int) - scheme.offset + way
        allowed = (codes >= grid.low) & (codes <= grid.high)
        step = way * scales
        change = 2 * step * (delta @ damped) + step**2 * np.diagonal(damped)
        assert change[allowed].min() > -1e-4 * least.max()
