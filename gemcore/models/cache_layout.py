"""How the KV cache and the placement of tokens in it are laid out; without torch.

A cache scheme says how keys and values are stored:

`f16`  float16. Keys `[kv_heads, capacity / 16, head_dim, 16]` (16 positions lie side by side, so that one
       vector holds one channel of 16 keys), values `[kv_heads, capacity, head_dim]`.
`q8`   int8 with scales, half the bytes. Keys and values are bytes `[kv_heads, capacity / 16, block]`; a block
       holds 16 positions of one head, codes first:
       keys: `code + 128` as uint8 `[head_dim / 4, 16, 4]`, then float16 scales `[head_dim / 32, 16]`;
       values: int8 `[8, head_dim, 2]` (pairs of positions side by side), then float32 scales `[16]`.
       So 64 bytes of keys are 16 positions x 4 channels, and 32 bytes of values 16 channels x 2 positions,
       which are operands of integer dot products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemcore.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from gemcore.models.config import ModelConfig

KEY_BLOCK = 16
"""Positions that lie side by side in the cache; capacities are multiples of it."""

PLACEMENT_FIELDS = 5
"""RoPE position, cache slot, start and end of the shared prefix, first slot of the own sequence."""

CACHE_SCHEMES = ("f16", "q8")
"""Names of the cache schemes."""

DEFAULT_CACHE = "f16"

AUTO_CACHE = "auto"
"""What users may say instead of a scheme: the one that the target prefers."""

KEY_GROUP = 32
"""Channels of a key that share a scale in the scheme `q8`; a value has one scale for all channels."""


def check_cache_scheme(scheme: str, config: ModelConfig) -> None:
    """Raise UsageError for an unknown scheme, or one that cannot hold heads of this width."""
    if scheme not in CACHE_SCHEMES:
        raise unknown_name("cache scheme", scheme, CACHE_SCHEMES)
    if scheme == "q8" and config.head_dim % KEY_GROUP:
        raise UsageError(
            f"cache scheme 'q8' needs heads whose width is a multiple of {KEY_GROUP}, and this model's "
            f"are {config.head_dim} wide: use 'f16'"
        )


def cache_dtype(scheme: str) -> str:
    """NumPy's name of the type of a cache's elements."""
    return "uint8" if scheme == "q8" else "float16"


def cache_shapes(
    config: ModelConfig, capacity: int, scheme: str = DEFAULT_CACHE
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of one layer's keys and values for `capacity` positions (a multiple of 16)."""
    heads, width, blocks = config.kv_heads, config.head_dim, capacity // KEY_BLOCK
    if scheme == "q8":
        return (heads, blocks, key_block_bytes(width)), (heads, blocks, value_block_bytes(width))
    return (heads, blocks, width, KEY_BLOCK), (heads, capacity, width)


def key_block_bytes(head_dim: int) -> int:
    """Bytes of 16 keys of one head in the scheme `q8`."""
    return KEY_BLOCK * (head_dim + 2 * (head_dim // KEY_GROUP))


def value_block_bytes(head_dim: int) -> int:
    """Bytes of 16 values of one head in the scheme `q8`."""
    return KEY_BLOCK * (head_dim + 4)
