"""Products with packed weights: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import linear
from gemcore.models import ops
from gemcore.packing import Quantized, pack, pack_halves
from gemcore.schemes import SCHEMES, get_scheme
from tests.factors import any_factors

INPUTS = 192


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def any_codes(scheme, outputs: int) -> torch.Tensor:
    """A packed weight of every code that a file may hold, with scales of both signs."""
    generator = np.random.default_rng(outputs)
    codes = generator.integers(0, 2**scheme.bits, (outputs, INPUTS), dtype=np.uint8)
    factors = any_factors(scheme, (outputs, INPUTS // scheme.group), seed=outputs)
    return torch.from_numpy(pack(Quantized(codes=codes, **factors), scheme))


# How outputs are written does not depend on the scheme, so most schemes have one case.
WRITTEN = [(name, outputs) for name in ("q4a-g32", "q4s-g32", "q8-g32") for outputs in (64, 41, 7)]
CASES = [
    *WRITTEN,
    *((s.name, 41) for s in SCHEMES.values() if (s.name, 41) not in WRITTEN and s.grouped),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}, {case[1]} outputs")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def scheme(case):
    return get_scheme(case[0])


@pytest.fixture(scope="module")
def outputs(case):
    """Whole tiles, a part of a tile at the end, or only a part of one."""
    return case[1]


@pytest.fixture(scope="module")
def qlinear(machine, scheme, outputs):
    isa = machine.instructions_for(scheme)
    return machine.compile(linear.qlinear(isa, scheme, INPUTS, outputs))


@pytest.fixture(scope="module")
def qlinear_residual(machine, scheme, outputs):
    kernel = linear.qlinear(machine.isa, scheme, INPUTS, outputs, residual=True)
    return machine.compile(kernel)


def test_qlinear(qlinear, scheme, outputs, tokens):
    packed = any_codes(scheme, outputs)
    activations = ops.quantize(random(tokens, INPUTS, seed=tokens))
    expected = ops.qlinear(*activations, packed, scheme.name, outputs)
    found = qlinear(*activations, packed, torch.zeros_like(expected))[-1]
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("case", WRITTEN, ids=str, indirect=True, scope="module")
def test_qlinear_added_to_the_residual_stream(qlinear_residual, scheme, outputs, tokens):
    packed, residual = any_codes(scheme, outputs), random(tokens, outputs, seed=1)
    activations = ops.quantize(random(tokens, INPUTS, seed=tokens))
    expected = residual + ops.qlinear(*activations, packed, scheme.name, outputs)
    found = qlinear_residual(*activations, packed, residual, torch.zeros_like(expected))[-1]
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(qlinear, scheme, outputs, sign):
    """Every code and every activation at its extreme: 16-bit steps between would overflow."""
    codes = np.zeros((outputs, INPUTS), np.uint8)
    codes[::2] = 2**scheme.bits - 1
    scales = np.ones((outputs, INPUTS // scheme.group), np.float16)
    minima = (-scales if scheme.byte_factors else scales) if scheme.has_minimum else None
    packed = torch.from_numpy(pack(Quantized(codes=codes, scales=scales, minima=minima), scheme))
    activations = ops.quantize(torch.full((5, INPUTS), 127.0 * sign))
    assert (activations[0] == 127 * sign).all()
    value = codes[:, 0].astype(int) - scheme.offset
    value += 0 if minima is None else int(minima[0, 0])
    found = qlinear(*activations, packed, torch.zeros(5, outputs))[-1]
    np.testing.assert_array_equal(found, np.tile(127 * sign * INPUTS * value, (5, 1)))


@pytest.fixture(scope="module", params=[(80, 64), (80, 41), (33, 7)], ids=str)
def f16_case(machine, request):
    inputs, outputs = request.param
    return inputs, outputs, machine.compile(linear.linear_f16(machine.isa, inputs, outputs))


def test_linear_f16(f16_case, tokens):
    inputs, outputs, kernel = f16_case
    packed = torch.from_numpy(pack_halves(random(outputs, inputs, seed=2).numpy()))
    x = random(tokens, inputs, seed=tokens)
    expected = ops.linear_f16(x, packed, outputs)
    found = kernel(x, packed, torch.zeros_like(expected))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
