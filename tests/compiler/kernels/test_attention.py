"""The cache and attention over it: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import attention
from gemcore.models import ops
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.layout import rotation_table
from gemcore.testing import tiny_config

CAPACITY = 64
CONFIGS = {
    "heads of 16, ratio 1": tiny_config(heads=2, kv_heads=2),
    "heads of 32, ratio 3": tiny_config(heads=6, kv_heads=2, head_dim=32),
    "heads of 64, ratio 2": tiny_config(heads=2, kv_heads=1, head_dim=64),
    "heads of 80, ratio 4": tiny_config(heads=4, kv_heads=1, head_dim=80),
    # So many heads share a key that every token is taken alone.
    "heads of 12, ratio 14": tiny_config(heads=14, kv_heads=1, head_dim=12),
}
PLACEMENTS = {
    "shared prefix": [
        [10, 20, 0, 10, 20],
        [11, 21, 0, 10, 20],
        [10, 30, 0, 10, 30],
        [11, 31, 0, 10, 30],
        [12, 32, 0, 10, 30],
    ],
    "prefix without gap": [[10, 10, 0, 10, 10], [11, 11, 0, 10, 10]],
    "apart": [[0, 3, 0, 0, 3], [1, 4, 0, 0, 3], [0, 40, 0, 0, 40], [1, 41, 0, 0, 40]],
    "prefix of a whole block": [[16, 47, 0, 16, 47], [17, 48, 0, 16, 47]],
    "prefix in the middle": [[9 + i, 45 + i, 19, 28, 45] for i in range(7)],
    "prefix of whole blocks": [[32 + i, 49 + i, 16, 48, 48] for i in range(7)],
    "prefixes apart": [[9, 40 + i, 10 * i, 10 * i + 9, 40 + i] for i in range(4)],
    "begins within a long prefix": [[p, p, 3, 50, 3 if p % 2 else 33] for p in range(52, 64)],
    "last slot": [[63, 63, 0, 0, 0]],
    # Tiles of tokens begin and end inside the texts, at every offset.
    "long texts": [
        *([5 + i, 8 + i, 0, 5, 8] for i in range(7)),
        *([5 + i, 15 + i, 0, 5, 15] for i in range(14)),
        *([i, 33 + i, 0, 0, 33] for i in range(10)),
        *([5 + i, 44 + i, 0, 5, 44] for i in range(13)),
    ],
    "out of order": [
        [7, 7, 0, 0, 0],
        [6, 6, 0, 0, 0],
        *([p, p, 0, 0, 0] for p in range(8, 16)),
        [5, 5, 0, 0, 0],
    ],
    # Tokens that look alike but for one: at the end of every size of tile, and within.
    "last one jumps back": [*([p, p, 0, 0, 0] for p in range(20, 31)), [5, 5, 0, 0, 0]],
    "one begins later": [[p, p, 0, 0, 2 if p % 3 == 1 else 0] for p in range(2, 26)],
    "one has a prefix": [[p, p, 0, 3 if p % 3 == 1 else 0, 3] for p in range(5, 29)],
    "begins within the prefix": [[p, p, 0, 10, 5] for p in range(12, 26)],
    "alternating": [[p, 20 * (p % 2) + p // 2, 0, 0, 20 * (p % 2)] for p in range(26)],
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def rope_kernel(machine, config):
    return machine.compile(attention.rope_append(machine.isa, config))


@pytest.fixture(scope="module")
def attention_kernel(machine, config):
    return machine.compile(attention.attention(machine.isa, config))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled_cache(config) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = new_caches(config, CAPACITY, torch.float16)[0]
    return random(*keys.shape, seed=1).half(), random(*values.shape, seed=2).half()


def check_rope(kernel, config, placement) -> None:
    rotation = torch.from_numpy(rotation_table(config))
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    qkv = random(len(placement), width, seed=3)
    keys, values = filled_cache(config)
    found = kernel(
        qkv, rotation, placement, keys, values,
        torch.zeros(len(placement), config.heads, config.head_dim),
    )  # fmt: skip
    queries = ops.rope_append(qkv, rotation, placement, keys, values, config.heads)
    np.testing.assert_array_equal(found[5], queries.numpy())
    np.testing.assert_array_equal(found[3], keys.numpy())
    np.testing.assert_array_equal(found[4], values.numpy())


def check_attention(kernel, config, placement) -> None:
    keys, values = filled_cache(config)
    queries = 2 * random(len(placement), config.heads, config.head_dim, seed=4)
    expected = ops.attention(queries, keys, values, placement)
    # What no token sees may hold anything.
    seen = torch.zeros(CAPACITY, dtype=torch.bool)
    for _, slot, prefix_start, prefix_end, start in placement.tolist():
        seen[prefix_start:prefix_end] = True
        seen[start : slot + 1] = True
    for slot in (~seen).nonzero()[:, 0].tolist():
        keys[:, slot // 16, :, slot % 16] = values[:, slot] = torch.nan
    found = kernel(queries, keys, values, placement, torch.zeros_like(expected))[-1]
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("start", [0, 17])
def test_one_text(rope_kernel, attention_kernel, config, tokens, start):
    placement = causal_placement(start, tokens)
    check_rope(rope_kernel, config, placement)
    check_attention(attention_kernel, config, placement)


@pytest.mark.parametrize("rows", PLACEMENTS.values(), ids=PLACEMENTS)
def test_several_texts(rope_kernel, attention_kernel, config, rows):
    placement = torch.tensor(rows, dtype=torch.int32)
    check_rope(rope_kernel, config, placement)
    check_attention(attention_kernel, config, placement)
