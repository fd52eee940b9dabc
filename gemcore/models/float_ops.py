"""The operations of `gemcore.models.ops` in ordinary float32 torch: fast in eager mode, differentiable.

Same names, same shapes, same meaning, no promise about the order of sums and no rounding of
activations. The float32 reference model runs on these, and so does training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gemcore.models.cache_layout import KEY_BLOCK


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """RMSNorm of `x` `[tokens, hidden]` by `gain` `[hidden]`."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gain


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` of `[tokens, 2 * inner]`: `[tokens, inner]`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rope_append(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    """Rotate queries and keys, write the cache in place, return queries `[tokens, heads, head_dim]`."""
    kv_heads, _, head_dim, _ = keys.shape
    split = qkv.reshape(qkv.shape[0], heads + 2 * kv_heads, head_dim)
    cosine, sine = rotation[placement[:, 0].long()][:, None].chunk(2, dim=-1)
    first, second = split[:, : heads + kv_heads].chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    slots = placement[:, 1].long()
    blocks, lanes = slots // KEY_BLOCK, slots % KEY_BLOCK
    keys[:, blocks, :, lanes] = turned[:, heads:].to(keys.dtype)
    values[:, slots] = split[:, heads + kv_heads :].transpose(0, 1).to(values.dtype)
    return turned[:, :heads]


def attention(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    """Grouped-query attention over the cache: `[tokens, heads * head_dim]`."""
    tokens, heads, head_dim = queries.shape
    kv_heads, capacity = values.shape[0], values.shape[1]
    used = min(capacity, int(placement[:, 1].max()) + 1)
    k = keys.permute(0, 1, 3, 2).reshape(kv_heads, capacity, head_dim)[:, :used].float()
    slot = torch.arange(used, dtype=torch.int32)
    _, own, prefix_start, prefix_end, start = placement[:, :, None].unbind(1)
    visible = ((slot >= prefix_start) & (slot < prefix_end)) | ((slot >= start) & (slot <= own))
    # With a batch dimension torch takes its blocked kernel, which never holds all scores.
    out = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        k[None],
        values[None, :, :used].float(),
        attn_mask=visible[None, None],
        enable_gqa=True,
    )[0]
    return out.transpose(0, 1).reshape(tokens, heads * head_dim)


def routed_lora(x: Tensor, y: Tensor, weights: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Add routed low-rank experts to `y`; see `gemcore.models.ops.routed_lora`."""
    inner = torch.einsum("tk,ekr->ter", x, down.to(x.dtype)) * weights[..., None]
    return y + torch.einsum("ter,ern->tn", inner, up.to(x.dtype))


def linear_f32(x: Tensor, weight: Tensor) -> Tensor:
    """`x` `[tokens, in]` times `weight` `[in, out]`: `[tokens, out]`."""
    return x @ weight
