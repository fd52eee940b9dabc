"""The float operations mean what the exact ones mean, and can be differentiated."""

from __future__ import annotations

import torch

from gemcore.models import float_ops
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.layout import rotation_table
from gemcore.testing import tiny_config


def test_gradients_reach_every_input():
    config = tiny_config()
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double).requires_grad_()

    x, gain, y = leaf(3, 8), leaf(8), leaf(3, 6)
    weights, down, up = leaf(3, 2), leaf(2, 8, 4), leaf(2, 4, 6)
    assert torch.autograd.gradcheck(lambda x, gain: float_ops.rms_norm(x, gain, 1e-5), (x, gain))
    assert torch.autograd.gradcheck(float_ops.silu_mul, (leaf(3, 8),))
    assert torch.autograd.gradcheck(float_ops.routed_lora, (x, y, weights, down, up))

    rotation = torch.from_numpy(rotation_table(config))
    keys, values = new_caches(config, 16, torch.float32)[0]
    qkv = torch.randn(3, 8 * 16, generator=generator, requires_grad=True)
    placement = causal_placement(0, 3)
    queries = float_ops.rope_append(qkv, rotation, placement, keys, values, 4)
    float_ops.attention(queries, keys, values, placement).square().sum().backward()
    assert qkv.grad is not None
    assert (qkv.grad.abs().sum(0) > 0).all()
