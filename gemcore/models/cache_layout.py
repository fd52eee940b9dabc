"""How the KV cache and the placement of tokens in it are laid out; without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gemcore.models.config import ModelConfig

KEY_BLOCK = 16
"""Positions that lie side by side in the key cache; capacities are multiples of it."""

PLACEMENT_FIELDS = 5
"""RoPE position, cache slot, start and end of the shared prefix, first slot of the own sequence."""


def cache_shapes(config: ModelConfig, capacity: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one layer's keys and values for `capacity` positions (a multiple of 16)."""
    keys = (config.kv_heads, capacity // KEY_BLOCK, config.head_dim, KEY_BLOCK)
    return keys, (config.kv_heads, capacity, config.head_dim)
