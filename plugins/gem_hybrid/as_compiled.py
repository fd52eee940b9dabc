"""The roundings of a compiled model in float32: activations in 8 bits, keys and values as they are cached.

Sums are not in the order that the compiled kernels have, which is all the difference to
`gemcore.models.ops`; it makes this fast enough to measure with.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gemcore.models import float_ops, reference
from gemcore.models.cache_layout import KEY_GROUP
from gemcore.schemes import GROUP


def rounded(x: Tensor, group: int = GROUP) -> Tensor:
    """What `gem::quantize` leaves of activations `[tokens, channels]`."""
    values, scales, _ = reference.quantize(x, group)
    parts = values.reshape(*scales.shape, group).float() * scales[..., None]
    return parts.reshape(x.shape)


def round_inputs(module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hook of a linear layer whose weight is in integer codes."""
    return (rounded(inputs[0]), *inputs[1:])


def cache_operations() -> Any:
    """`float_ops` with the operations of a `q8` cache: what is written is rounded, and so are queries."""
    return SimpleNamespace(
        rms_norm=float_ops.rms_norm,
        silu_mul=float_ops.silu_mul,
        rope_append=float_ops.rope_append,
        attention=float_ops.attention,
        rope_append_q8=_append,
        attention_q8=_attention,
    )


def _append(
    qkv: Tensor, rotation: Tensor, placement: Tensor, keys: Tensor, values: Tensor, heads: int
) -> Tensor:
    """Keys and values are float32 here, each rounded as the scheme `q8` rounds it."""
    queries = float_ops.rope_append(qkv, rotation, placement, keys, values, heads)
    kv_heads, _, head_dim, _ = keys.shape
    flat = keys.permute(0, 1, 3, 2).reshape(-1, head_dim)
    whole = rounded(flat, KEY_GROUP).reshape(kv_heads, -1, keys.shape[3], head_dim)
    keys.copy_(whole.permute(0, 1, 3, 2))
    values.copy_(rounded(values.reshape(-1, head_dim), head_dim).reshape(values.shape))
    return queries


def _attention(queries: Tensor, keys: Tensor, values: Tensor, placement: Tensor) -> Tensor:
    head_dim = queries.shape[2]
    turned = rounded(queries.reshape(-1, head_dim), KEY_GROUP).reshape(queries.shape)
    return float_ops.attention(turned, keys, values, placement)


def cache_type(scheme: str) -> torch.dtype:
    """The type of the caches that stand in for those of a scheme."""
    return torch.float32 if scheme == "q8" else torch.float16
