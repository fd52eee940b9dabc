"""Product, SwiGLU and rounding in one kernel: the bits of the three one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import feed_forward
from gemcore.models import ops
from gemcore.packing import pack_weight
from gemcore.schemes import SCHEMES, get_scheme

INPUTS, INNER = 192, 160


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[s.name for s in SCHEMES.values() if s.grouped])
def scheme(request):
    return get_scheme(request.param)


@pytest.fixture(scope="module")
def kernel(machine, scheme):
    # Each tile of tokens is four times in this kernel, and those of several are those of `qlinear`.
    isa = machine.instructions_for(scheme, tiles=(1,))
    return machine.compile(feed_forward.gate_up_quantize(isa, scheme, INPUTS, INNER))


def test_gate_up_quantize(kernel, scheme, tokens):
    packed = torch.from_numpy(pack_weight(random(2 * INNER, INPUTS).numpy(), scheme))
    activations = ops.quantize(random(tokens, INPUTS, seed=tokens))
    product = ops.qlinear(*activations, packed, scheme.name, 2 * INNER)
    expected = ops.quantize(ops.silu_mul(product))
    assert expected[0].abs().float().mean() > 10
    found = kernel(*activations, packed, *(torch.zeros_like(part) for part in expected))
    for ours, theirs in zip(found[-3:], expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
