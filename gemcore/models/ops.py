"""The hot operations of the decoder as torch custom ops in the namespace `gem`.

What each op does here, in eager torch, is the definition: every compiled kernel must give the same
bits. That is possible because the order of every float32 operation is part of the definition, with
`fused multiply-add` (one rounding) where the kernels fuse. Integer products are exact in any order, so
only the sums over groups, positions and channels need an order, and it is the ascending one. So the
result depends neither on the machine, nor on its vector width, nor on how a text is cut into passes:
prefill and token-by-token decoding agree to the bit.

Shapes: `tokens` is the number of tokens in a pass. `placement` is int32 `[tokens, 5]`, for each token
its RoPE position, the cache slot that it is written to, start and end of the prefix that it sees
(slots `[prefix_start, prefix_end)`), and the first slot of its own sequence (it also sees
`[start, slot]`, which neither begins nor ends before the prefix does). A plain text has rows
`(p, p, 0, 0, 0)`.

The cache of one layer is a tensor of keys and one of values, laid out as its scheme says
(`gemcore.models.cache_layout`); the operations on a `q8` cache have names of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gemcore.models import reference
from gemcore.models.cache_layout import KEY_BLOCK, KEY_GROUP
from gemcore.packing import unpack, unpack_halves, unpack_weight
from gemcore.schemes import GROUP, TILE, get_scheme


@torch.library.custom_op("gem::rms_norm", mutates_args=())
def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """RMSNorm (arXiv 1910.07467) of `x` `[tokens, hidden]` float32 by `gain` `[hidden]`.

    The mean square is summed in float64, so its order does not matter.
    """
    mean_square = x.double().square().sum(-1, keepdim=True) / x.shape[-1]
    return x * (1 / (mean_square + epsilon).sqrt()).float() * gain


@rms_norm.register_fake
def _(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gem::silu_mul", mutates_args=())
def silu_mul(gate_up: Tensor) -> Tensor:
    """SwiGLU's middle (arXiv 2002.05202): `silu(gate) * up` of `[tokens, 2 * inner]` float32.

    Returns `[tokens, inner]`; the first half of the channels is the gate.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return gate / (1 + reference.exp(-gate)) * up


@silu_mul.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


@torch.library.custom_op("gem::quantize", mutates_args=())
def quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round activations `[tokens, channels]` float32 to int8 in groups of 32, each with its own scale.

    Returns values int8 `[tokens, channels]`, scales float32 `[tokens, channels / 32]` (largest magnitude
    / 127) and the sums of the values int32 `[tokens, channels / 32]`, which weights with an offset or a
    minimum need. A group whose largest magnitude is below 2**-100 rounds to zeros.
    """
    return reference.quantize(x, GROUP)


@quantize.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tokens, groups = x.shape[0], x.shape[1] // GROUP
    return (
        torch.empty_like(x, dtype=torch.int8),
        x.new_empty(tokens, groups),
        x.new_empty(tokens, groups, dtype=torch.int32),
    )


@torch.library.custom_op("gem::qlinear", mutates_args=())
def qlinear(
    values: Tensor, scales: Tensor, sums: Tensor, packed: Tensor, scheme: str, out_features: int
) -> Tensor:
    """Product of quantized activations (from `quantize`) with a packed weight: float32 `[tokens, out]`.

    For each group g, ascending: `acc = fma(dot_g, weight_scale_g * scale_g, acc)` with the exact integer
    dot product of the codes less their offset; with a minimum also
    `acc = fma(minimum_g, scale_g * sum_g, acc)`. Groups of 64 weights are two of activations.
    """
    layout = get_scheme(scheme)
    weight = unpack(packed.numpy(), layout, out_features)
    codes = torch.from_numpy(weight.codes.astype(np.float32)) - layout.offset
    weight_scales = torch.from_numpy(weight.scales.astype(np.float32))
    out = values.new_zeros(values.shape[0], out_features, dtype=torch.float32)
    for g in range(scales.shape[1]):
        group = slice(g * GROUP, (g + 1) * GROUP)
        # At most 32 * 127 * 127 < 2**24: exact in float32.
        dot = values[:, group].float() @ codes[:, group].T
        block = g * GROUP // layout.group
        out = reference.fma(dot, weight_scales[None, :, block] * scales[:, g, None], out)
        if weight.minima is not None:
            minimum = torch.from_numpy(weight.minima[:, block].astype(np.float32))
            out = reference.fma(minimum[None], (scales[:, g] * sums[:, g])[:, None], out)
    return out


@qlinear.register_fake
def _(
    values: Tensor, scales: Tensor, sums: Tensor, packed: Tensor, scheme: str, out_features: int
) -> Tensor:
    return scales.new_empty(values.shape[0], out_features)


@torch.library.custom_op("gem::linear_f16", mutates_args=())
def linear_f16(x: Tensor, packed: Tensor, out_features: int) -> Tensor:
    """Product of `x` `[tokens, in]` float32 with an `f16` weight: float32 `[tokens, out]`.

    Summed over inputs in ascending order by fused multiply-add.
    """
    weight = torch.from_numpy(unpack_halves(packed.numpy(), out_features))
    out = x.new_zeros(x.shape[0], out_features)
    for k in range(x.shape[1]):
        out = reference.fma(x[:, k, None], weight[None, :, k], out)
    return out


@linear_f16.register_fake
def _(x: Tensor, packed: Tensor, out_features: int) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


@torch.library.custom_op("gem::embedding", mutates_args=())
def embedding(tokens: Tensor, packed: Tensor, scheme: str, hidden: int) -> Tensor:
    """Rows of a packed embedding: `tokens` int32 `[tokens]` to float32 `[tokens, hidden]`."""
    tiles, inverse = torch.unique(tokens.long() // TILE, return_inverse=True)
    rows = _unpack_rows(packed[tiles], scheme, len(tiles) * TILE)
    return rows[inverse * TILE + tokens.long() % TILE]


@embedding.register_fake
def _(tokens: Tensor, packed: Tensor, scheme: str, hidden: int) -> Tensor:
    return tokens.new_empty(tokens.shape[0], hidden, dtype=torch.float32)


def _unpack_rows(packed: Tensor, scheme: str, rows: int) -> Tensor:
    return torch.from_numpy(unpack_weight(packed.numpy(), get_scheme(scheme), rows))


@torch.library.custom_op("gem::rope_append", mutates_args=("keys", "values"))
def rope_append(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    """Rotate queries and keys by position (RoPE, arXiv 2104.09864) and write the cache, in place.

    Args:
        qkv: float32 `[tokens, (heads + 2 * kv_heads) * head_dim]`.
        rotation: float32 `[context, head_dim]`: cosines, then sines, of each position.
        placement: int32 `[tokens, 5]`.
        keys, values: the cache of this layer, written at each token's slot.
        heads: number of query heads.

    Returns:
        Rotated queries, float32 `[tokens, heads, head_dim]`.
    """
    kv_heads, _, head_dim, _ = keys.shape
    split = qkv.reshape(qkv.shape[0], heads + 2 * kv_heads, head_dim)
    turned = reference.rotate(split[:, : heads + kv_heads], rotation[placement[:, 0].long()])
    slots = placement[:, 1].long()
    blocks, lanes = slots // KEY_BLOCK, slots % KEY_BLOCK
    keys[:, blocks, :, lanes] = turned[:, heads:].to(keys.dtype)
    values[:, slots] = split[:, heads + kv_heads :].transpose(0, 1).to(values.dtype)
    return turned[:, :heads].contiguous()


@rope_append.register_fake
def _(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], heads, keys.shape[2])


@torch.library.custom_op("gem::rope_append_q8", mutates_args=("keys", "values"))
def rope_append_q8(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    """As `rope_append`, into a cache of the scheme `q8`.

    Turned keys are rounded to int8 as `quantize` does, their scales to float16; values likewise, with one
    float32 scale for all channels of a head.
    """
    head_dim, tokens = rotation.shape[1], qkv.shape[0]
    split = qkv.reshape(tokens, -1, head_dim)
    kv_heads = keys.shape[0]
    turned = reference.rotate(split[:, : heads + kv_heads], rotation[placement[:, 0].long()])
    slots = placement[:, 1].long()
    blocks, lanes = slots // KEY_BLOCK, slots % KEY_BLOCK

    found, scales, _ = reference.quantize(turned[:, heads:].reshape(-1, head_dim), KEY_GROUP)
    codes, key_scales = reference.key_parts(keys, head_dim)
    biased = (found.short() + 128).to(torch.uint8)
    codes[:, blocks, :, lanes] = biased.reshape(tokens, kv_heads, head_dim // 4, 4)
    key_scales[:, blocks, :, lanes] = scales.half().reshape(tokens, kv_heads, -1)

    own = split[:, heads + kv_heads :].reshape(-1, head_dim)
    found, scales, _ = reference.quantize(own, head_dim)
    codes, value_scales = reference.value_parts(values, head_dim)
    codes[:, blocks, lanes // 2, :, lanes % 2] = found.reshape(tokens, kv_heads, head_dim)
    value_scales[:, blocks, lanes] = scales.reshape(tokens, kv_heads).T
    return turned[:, :heads].contiguous()


@rope_append_q8.register_fake
def _(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    return qkv.new_empty(qkv.shape[0], heads, rotation.shape[1])


@torch.library.custom_op("gem::attention", mutates_args=())
def attention(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """Grouped-query attention (arXiv 2305.13245) over the cache: float32 `[tokens, heads * head_dim]`.

    Scores are sums over channels, ascending; the output is the sum over visible slots, ascending, of
    `exp(score - largest) * value`, times one over their float64 total.
    """
    return reference.attention(queries, keys, values, placement)


@attention.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    return queries.new_empty(queries.shape[0], queries.shape[1] * queries.shape[2])


@torch.library.custom_op("gem::attention_q8", mutates_args=())
def attention_q8(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """As `attention`, over a cache of the scheme `q8`, with integer dot products.

    Queries `[tokens, heads, head_dim]` are rounded as `quantize` does; their scales take `head_dim**-0.5`
    and, since weights are powers of two, `log2(e)`.
    Scores: for each group of 32 channels, ascending,
    `score = fma(dot_g, key_scale_g * query_scale_g, score)` with the exact integer `dot_g`. Then
    `weight = 2**(24 + score - largest)`, and `total` is the sum of their integer parts. The product of a
    weight with its value's scale becomes an integer from 0 to 32767 in steps of
    `step = largest product / 32767`. The output is
    `float32(sum of integer * value code) * (step * (1 / float32(total)))`. Both sums are exact.
    """
    return reference.attention_q8(queries, keys, values, placement)


@attention_q8.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    return queries.new_empty(queries.shape[0], queries.shape[1] * queries.shape[2])


@torch.library.custom_op("gem::routed_lora", mutates_args=())
def routed_lora(x: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Add routed low-rank experts (LoRA, arXiv 2106.09685) to a linear layer's output.

    `y[t] + sum over experts e with weights[t, e] != 0 of weights[t, e] * (x[t] @ down[e]) @ up[e]`

    The product with `down` is summed by groups of 32 inputs (`gemcore.models.reference.grouped_matmul`);
    times the weight, it is multiplied with `up` and added to `y` by `fma` over the rank, ascending. Experts
    come in ascending order; one of weight zero is never read.

    Args:
        x: input of the layer, float32 `[tokens, in]`.
        y: output of the layer, float32 `[tokens, out]`.
        weights: float32 `[tokens, experts]`; a zero costs nothing.
        down: float16 or float32 `[experts, in, rank]`.
        up: `[experts, rank, out]`, of the same type.
    """
    return reference.routed_deltas(x, None, y, weights, down, up)


@routed_lora.register_fake
def _(x: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op("gem::routed_lora_q8", mutates_args=())
def routed_lora_q8(
    values: Tensor, scales: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor
) -> Tensor:
    """As `routed_lora`, for activations as `quantize` rounds them: `x = value * scale`.

    Values are int8 `[tokens, in]`, scales float32 `[tokens, in / 32]`. A group's sum is that of the
    integer values, and takes its scale when it is added to the total.
    """
    return reference.routed_deltas(values, scales, y, weights, down, up)


@routed_lora_q8.register_fake
def _(
    values: Tensor, scales: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor
) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op("gem::linear_f32", mutates_args=())
def linear_f32(x: Tensor, weight: Tensor) -> Tensor:
    """`x` `[tokens, in]` times a small `weight` `[in, out]`, all float32: `[tokens, out]`.

    For routers, whose ordinary matrix products are compiled without vectors. Summed by groups of 32
    inputs (`gemcore.models.reference.grouped_matmul`), so it has the same bits on every machine.
    """
    return reference.grouped_matmul(x, weight)


@linear_f32.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])
