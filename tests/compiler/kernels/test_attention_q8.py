"""A `q8` cache and attention over it: compiled and eager, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemcore.compiler.kernels import attention_q8
from gemcore.models import ops, reference
from gemcore.models.decoder import causal_placement, new_caches
from gemcore.models.layout import rotation_table
from gemcore.testing import tiny_config

CAPACITY = 64
CONFIGS = {
    "heads of 32, ratio 3": tiny_config(heads=6, kv_heads=2, head_dim=32),
    # So many heads share a key that every token is taken alone.
    "heads of 64, ratio 14": tiny_config(heads=14, kv_heads=1, head_dim=64),
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
    "prefix in the middle": [[9 + i, 45 + i, 19, 28, 45] for i in range(7)],
    "begins within a long prefix": [[p, p, 3, 50, 3 if p % 2 else 33] for p in range(52, 64)],
    "last slot": [[63, 63, 0, 0, 0]],
    "long texts": [
        *([5 + i, 8 + i, 0, 5, 8] for i in range(7)),
        *([5 + i, 15 + i, 0, 5, 15] for i in range(14)),
        *([i, 33 + i, 0, 0, 33] for i in range(10)),
    ],
    "alternating": [[p, 20 * (p % 2) + p // 2, 0, 0, 20 * (p % 2)] for p in range(26)],
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def rope_kernel(machine, config):
    return machine.compile(attention_q8.rope_append_q8(machine.isa, config))


@pytest.fixture(scope="module")
def attention_kernel(machine, config):
    return machine.compile(attention_q8.attention_q8(machine.isa, config))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled_cache(config) -> tuple[torch.Tensor, torch.Tensor]:
    """Every position written once."""
    keys, values = new_caches(config, CAPACITY, scheme="q8")[0]
    qkv = random(CAPACITY, (config.heads + 2 * config.kv_heads) * config.head_dim, seed=1)
    rotation = torch.from_numpy(rotation_table(config))
    ops.rope_append_q8(qkv, rotation, causal_placement(0, CAPACITY), keys, values, config.heads)
    return keys, values


def check_rope(kernel, config, placement) -> None:
    rotation = torch.from_numpy(rotation_table(config))
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    qkv = random(len(placement), width, seed=3)
    qkv[0, -config.head_dim :] = 0
    keys, values = filled_cache(config)
    found = kernel(
        qkv, rotation, placement, keys, values,
        torch.zeros(len(placement), config.heads, config.head_dim),
    )  # fmt: skip
    queries = ops.rope_append_q8(qkv, rotation, placement, keys, values, config.heads)
    np.testing.assert_array_equal(found[5], queries.numpy())
    np.testing.assert_array_equal(found[3], keys.numpy())
    np.testing.assert_array_equal(found[4], values.numpy())


def check_attention(kernel, config, placement) -> None:
    keys, values = filled_cache(config)
    queries = 2 * random(len(placement), config.heads, config.head_dim, seed=4)
    expected = ops.attention_q8(queries, keys, values, placement)
    # What no token sees may hold anything, scales that are no numbers included.
    seen = reference.visible_slots(placement, CAPACITY).any(0)
    hidden = (~seen).nonzero()[:, 0]
    reference.key_parts(keys, config.head_dim)[1][:, hidden // 16, :, hidden % 16] = torch.nan
    reference.value_parts(values, config.head_dim)[1][:, hidden // 16, hidden % 16] = torch.nan
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


def test_sums_over_many_positions_do_not_overflow(find_machine):
    """Equal weights, equal values of the largest size: integer sums as large as they can be."""
    config = tiny_config(heads=1, kv_heads=1, head_dim=32, context_length=2048)
    machine, count = find_machine("auto"), 1400
    keys, values = new_caches(config, 1408, scheme="q8")[0]
    reference.value_parts(values, 32)[0].fill_(-127)
    reference.value_parts(values, 32)[1].fill_(0.5)
    keys.fill_(128)
    reference.key_parts(keys, 32)[1].fill_(1)
    queries = torch.ones(1, 1, 32)
    placement = causal_placement(count - 1, 1)
    expected = ops.attention_q8(queries, keys, values, placement)
    np.testing.assert_allclose(expected.numpy(), -63.5, rtol=1e-6)
    kernel = machine.compile(attention_q8.attention_q8(machine.isa, config))
    found = kernel(queries, keys, values, placement, torch.zeros(1, 32))[-1]
    np.testing.assert_array_equal(found, expected.numpy())
