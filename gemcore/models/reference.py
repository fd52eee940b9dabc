"""Arithmetic of the reference semantics: float32 with a fixed order and one rounding a step."""

from __future__ import annotations

import torch
from torch import Tensor

from gemcore.models.cache_layout import KEY_BLOCK, KEY_GROUP
from gemcore.schemes import GROUP

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
SMALLEST_GROUP = 2.0**-100
"""Activations in a group of none larger than this round to zero: 127 over less might overflow."""

WEIGHT_STEPS = 32767
"""The largest weight of attention over a `q8` cache, as an integer."""

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

EXP2_LOWEST = -100.0
EXP2_ONE = 2.0**24
# Minimax polynomial of 2**r on |r| <= 1/2, to 3e-6: a fifth of half a step of a weight.
EXP2_COEFFICIENTS = (
    0.009582852944731712 * EXP2_ONE,
    0.055906426161527634 * EXP2_ONE,
    0.24024099111557007 * EXP2_ONE,
    0.6931241750717163 * EXP2_ONE,
    EXP2_ONE,
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


def exp2(x: Tensor) -> Tensor:
    """`2**(24 + x)` in float32 for no `x` above 0, to 3e-6; `x` counts as -100 at least."""
    x = x.clamp(min=EXP2_LOWEST)
    power = x.round()
    r = x - power
    p = _constant(EXP2_COEFFICIENTS[0]).expand_as(r)
    for coefficient in EXP2_COEFFICIENTS[1:]:
        p = fma(p, r, _constant(coefficient))
    return torch.ldexp(p, power.int())


def _constant(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def quantize(x: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round rows `[rows, channels]` to int8 in groups of `group` channels.

    Returns values int8 `[rows, channels]`, scales float32 and sums int32 `[rows, channels / group]`; see
    `gemcore.models.ops.quantize`.
    """
    groups = x.reshape(x.shape[0], -1, group)
    largest = groups.abs().amax(-1)
    # float64 holds the product exactly, so this rounds once, half to even.
    values = (groups.double() * _steps_in(largest, 127).double()[..., None]).round()
    sums = values.sum(-1).int()
    return values.to(torch.int8).reshape(x.shape), largest / 127, sums


def _steps_in(largest: Tensor, steps: int) -> Tensor:
    """`steps / largest` in float32, or zero where `largest` is next to nothing."""
    # Not `steps / largest`, which torch turns into a product with the reciprocal.
    inverse = torch.full_like(largest, steps) / largest
    return torch.where(largest >= SMALLEST_GROUP, inverse, 0.0)


def ordered_matmul(x: Tensor, weight: Tensor, start: Tensor | None = None) -> Tensor:
    """`start + x [tokens, in] @ weight [in, out]`, summed over inputs in ascending order."""
    out = x.new_zeros(x.shape[0], weight.shape[1]) if start is None else start
    for k in range(x.shape[1]):
        out = fma(x[:, k, None], weight[None, k], out)
    return out


def grouped_matmul(x: Tensor, weight: Tensor, scales: Tensor | None = None) -> Tensor:
    """`x [tokens, in] @ weight [in, out]` by groups of 32 inputs, of which the last may be shorter.

    Within a group `part = fma(x, weight, part)` over the inputs in ascending order, from zero; then
    `total = fma(part, scale, total)` over the groups in ascending order. The groups' sums do not wait for
    each other. `scales` is float32 `[tokens, groups]`; without it every scale is 1.
    """
    tokens, inputs = x.shape
    groups = -(-inputs // GROUP)
    # Zeros at the end of a sum change no bit of what is added to it.
    missing = groups * GROUP - inputs
    rows = torch.nn.functional.pad(x.float(), (0, missing)).reshape(tokens, groups, GROUP)
    columns = torch.nn.functional.pad(weight.float(), (0, 0, 0, missing))
    columns = columns.reshape(groups, GROUP, -1)
    parts = rows.new_zeros(tokens, groups, columns.shape[2])
    for k in range(GROUP):
        parts = fma(rows[:, :, k, None], columns[None, :, k], parts)
    total = torch.zeros_like(parts[:, 0])
    for g in range(groups):
        scale = torch.ones_like(total[:, :1]) if scales is None else scales[:, g, None]
        total = fma(parts[:, g], scale, total)
    return total


def routed_deltas(
    x: Tensor, scales: Tensor | None, y: Tensor, weights: Tensor, down: Tensor, up: Tensor
) -> Tensor:
    """`y` plus the deltas of the experts that work; see `gemcore.models.ops.routed_lora`."""
    out = y.clone()
    for e in range(weights.shape[1]):
        active = weights[:, e] != 0
        if active.any():
            own = None if scales is None else scales[active]
            inner = grouped_matmul(x[active], down[e], own) * weights[active, e, None]
            out[active] = ordered_matmul(inner, up[e].float(), out[active])
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


def visible_slots(placement: Tensor, capacity: int) -> Tensor:
    """Which slots each token sees: bool `[tokens, capacity]`."""
    slot = torch.arange(capacity, dtype=torch.int32)
    _, own, prefix_start, prefix_end, start = placement[:, :, None].unbind(1)
    return ((slot >= prefix_start) & (slot < prefix_end)) | ((slot >= start) & (slot <= own))


def attention(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """See `gemcore.models.ops.attention`."""
    tokens, heads, head_dim = queries.shape
    kv_heads, capacity = values.shape[0], values.shape[1]
    k = keys.permute(0, 2, 1, 3).reshape(kv_heads, head_dim, capacity).float()
    visible = visible_slots(placement, capacity)
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


def attention_q8(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """See `gemcore.models.ops.attention_q8`."""
    tokens, heads, head_dim = queries.shape
    kv_heads, capacity = keys.shape[0], keys.shape[1] * KEY_BLOCK
    visible = visible_slots(placement, capacity)
    codes, key_scales = key_parts(keys, head_dim)
    k = codes.permute(0, 2, 4, 1, 3).reshape(kv_heads, head_dim, capacity).float() - 128
    key_scales = key_scales.permute(0, 2, 1, 3).reshape(kv_heads, -1, capacity).float()
    codes, value_scales = value_parts(values, head_dim)
    v = codes.permute(0, 1, 2, 4, 3).reshape(kv_heads, 1, capacity, head_dim).double()
    value_scales = value_scales.reshape(kv_heads, 1, 1, capacity)

    q, query_scales, _ = quantize(queries.reshape(-1, head_dim), KEY_GROUP)
    shape = (tokens, kv_heads, heads // kv_heads, -1)
    q = q.float().reshape(shape).permute(1, 2, 0, 3)
    query_scales = (query_scales * (head_dim**-0.5 * LOG2_E)).reshape(shape).permute(1, 2, 0, 3)
    scores = q.new_zeros(*q.shape[:3], capacity)
    for g in range(head_dim // KEY_GROUP):
        group = slice(g * KEY_GROUP, (g + 1) * KEY_GROUP)
        # At most 32 * 127 * 127 < 2**24: exact in float32.
        dot = q[..., group] @ k[:, None, group]
        scores = fma(dot, key_scales[:, None, None, g] * query_scales[..., g, None], scores)
    scores = scores.masked_fill(~visible, -torch.inf)
    weights = exp2(scores - scores.amax(-1, keepdim=True)).masked_fill(~visible, 0)
    total = weights.floor().double().sum(-1).float()
    # The value's scale goes into the weight, which leaves integers to sum.
    scaled = (weights * value_scales).masked_fill(~visible, 0)
    largest = scaled.amax(-1)
    steps = (scaled.double() * _steps_in(largest, WEIGHT_STEPS).double()[..., None]).round()
    out = (steps @ v).float() * (largest / WEIGHT_STEPS * (1 / total))[..., None]
    return out.permute(2, 0, 1, 3).reshape(tokens, heads * head_dim)


def key_parts(keys: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a `q8` key cache, as views.

    uint8 `[kv_heads, blocks, head_dim / 4, 16, 4]` and float16 `[kv_heads, blocks, head_dim / 32, 16]`.
    """
    codes, scales = keys.split([KEY_BLOCK * head_dim, keys.shape[2] - KEY_BLOCK * head_dim], -1)
    return (
        codes.unflatten(-1, (head_dim // 4, KEY_BLOCK, 4)),
        scales.view(torch.float16).unflatten(-1, (-1, KEY_BLOCK)),
    )


def value_parts(values: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a `q8` value cache, as views.

    int8 `[kv_heads, blocks, 8, head_dim, 2]` and float32 `[kv_heads, blocks, 16]`.
    """
    codes, scales = values.split([KEY_BLOCK * head_dim, 4 * KEY_BLOCK], -1)
    return (
        codes.view(torch.int8).unflatten(-1, (KEY_BLOCK // 2, head_dim, 2)),
        scales.view(torch.float32),
    )
