"""Arithmetic of the reference semantics: float32 with a fixed order and one rounding a step."""

from __future__ import annotations

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
SMALLEST_GROUP = 2.0**-100
"""Activations in a group of none larger than this round to zero: 127 over less might overflow."""

EXP_LOWEST = -87.0
EXP_HIGHEST = 88.0
# Minimax polynomial of (e**r - 1 - r) / r**2 on |r| <= ln(2) / 2 (Cephes expf, S. Moshier).
EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a * b + c` in float32, rounded once: float64 holds the product of two float32 exactly.

    Rounding the float64 sum again differs from a hardware fused multiply-add only when the sum lies
    within 2**-53 of the middle between two float32 numbers.
    """
    return torch.addcmul(c.double(), a.double(), b.double()).float()


def exp(x: Tensor) -> Tensor:
    """`e**x` in float32 to about one unit in the last place, by the steps that every kernel takes."""
    x = x.clamp(EXP_LOWEST, EXP_HIGHEST)
    # The integer nearest to x / ln 2, half to even, without a rounding before.
    power = (x.double() * _constant(LOG2_E).double()).round().float()
    r = fma(power, _constant(-LN2_HIGH), x)
    r = fma(power, _constant(-LN2_LOW), r)
    p = _constant(EXP_COEFFICIENTS[0]).expand_as(r)
    for coefficient in EXP_COEFFICIENTS[1:]:
        p = fma(p, r, _constant(coefficient))
    p = fma(p, r * r, r) + 1
    return torch.ldexp(p, power.int())


def _constant(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def ordered_matmul(x: Tensor, weight: Tensor, start: Tensor | None = None) -> Tensor:
    """`start + x [tokens, in] @ weight [in, out]`, summed over inputs in ascending order."""
    out = x.new_zeros(x.shape[0], weight.shape[1]) if start is None else start
    for k in range(x.shape[1]):
        out = fma(x[:, k, None], weight[None, k], out)
    return out


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of `x` `[tokens, heads, head_dim]`.

    `rotation` is `[tokens, head_dim]`: cosines, then sines.
    """
    cosine, sine = rotation[:, None].chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        [fma(first, cosine, -(second * sine)), fma(second, cosine, first * sine)], dim=-1
    )


def attention(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """See `gemcore.models.ops.attention`."""
    tokens, heads, head_dim = queries.shape
    kv_heads, capacity = values.shape[0], values.shape[1]
    k = keys.permute(0, 2, 1, 3).reshape(kv_heads, head_dim, capacity).float()
    slot = torch.arange(capacity, dtype=torch.int32)
    _, own, prefix_start, prefix_end, start = placement[:, :, None].unbind(1)
    visible = ((slot >= prefix_start) & (slot < prefix_end)) | ((slot >= start) & (slot <= own))
    used = int(visible.any(0).nonzero().max()) + 1
    visible, k, v = visible[:, :used], k[:, :, :used], values[:, :used].float()
    unseen = ~visible.any(0)
    # Slots that nobody sees may hold anything, NaN included.
    k = k.masked_fill(unseen, 0)
    v = v.masked_fill(unseen[:, None], 0)
    q = queries.reshape(tokens, kv_heads, heads // kv_heads, head_dim).permute(1, 2, 0, 3)
    scores = q.new_zeros(*q.shape[:3], used)
    for d in range(head_dim):
        scores = fma(q[..., d, None], k[:, None, None, d], scores)
    scores = (scores * head_dim**-0.5).masked_fill(~visible, -torch.inf)
    weights = exp(scores - scores.amax(-1, keepdim=True)).masked_fill(~visible, 0)
    total = weights.double().sum(-1).float()
    out = torch.zeros_like(q)
    for t in range(used):
        out = fma(weights[..., t, None], v[:, None, None, t], out)
    out = out * (1 / total)[..., None]
    return out.permute(2, 0, 1, 3).reshape(tokens, heads * head_dim)
