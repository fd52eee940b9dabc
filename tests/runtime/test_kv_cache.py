"""The cache grows and keeps what it holds."""

from __future__ import annotations

import numpy as np
import pytest

from gemcore.errors import UsageError
from gemcore.models.cache_layout import cache_shapes
from gemcore.runtime.kv_cache import FIRST_CAPACITY, KVCache
from gemcore.runtime.tvm_runtime import as_array
from gemcore.testing import tiny_config

CONFIG = tiny_config(context_length=1000)


def fill(cache: KVCache) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    copies = []
    for tensor in cache.tensors:
        array = as_array(tensor)
        array[...] = generator.standard_normal(array.shape)
        copies.append(array.copy())
    return copies


def test_there_are_keys_and_values_for_every_layer():
    cache = KVCache(CONFIG)
    assert CONFIG.context_length < FIRST_CAPACITY
    assert cache.capacity == 1008
    shapes = [tuple(tensor.shape) for tensor in cache.tensors]
    assert shapes == CONFIG.layers * [*cache_shapes(CONFIG, 1008)]
    assert cache.bytes == sum(as_array(tensor).nbytes for tensor in cache.tensors)
    assert all(as_array(tensor).dtype == np.float16 for tensor in cache.tensors)
    assert all(as_array(tensor).ctypes.data % 64 == 0 for tensor in cache.tensors)


def test_growth_keeps_what_was_written():
    cache = KVCache(CONFIG, 32)
    before = fill(cache)
    cache.reserve(33)
    assert cache.capacity == 64
    for old, tensor in zip(before, cache.tensors, strict=True):
        new = as_array(tensor)
        np.testing.assert_array_equal(new[:, : old.shape[1]], old)
        assert not new[:, old.shape[1] :].any()


def test_a_q8_cache_grows_and_is_copied_with_its_scales():
    cache = KVCache(tiny_config(head_dim=32, context_length=1000), 32, "q8")
    before = []
    for tensor in cache.tensors:
        array = as_array(tensor)
        array[...] = np.random.default_rng(0).integers(0, 256, array.shape)
        before.append(array.copy())
    cache.reserve(33)
    other = cache.copy(17)
    assert cache.capacity == 64
    for old, grown, copied in zip(before, cache.tensors, other.tensors, strict=True):
        assert as_array(grown).dtype == np.uint8
        np.testing.assert_array_equal(as_array(grown)[:, :2], old)
        np.testing.assert_array_equal(as_array(copied)[:, :2], old)
        assert not as_array(copied)[:, 2:].any()


def test_room_that_is_there_is_not_made_again():
    cache = KVCache(CONFIG, 32)
    tensors = list(cache.tensors)
    cache.reserve(32)
    cache.reserve(1)
    assert all(a is b for a, b in zip(tensors, cache.tensors, strict=True))


def test_capacity_doubles_up_to_the_context_in_whole_blocks():
    cache = KVCache(CONFIG, 300)
    capacities = [cache.capacity]
    for wanted in (305, 700, 1000):
        cache.reserve(wanted)
        capacities.append(cache.capacity)
    # 1000 positions fill 62 and a half blocks of 16.
    assert capacities == [304, 608, 1008, 1008]


def test_a_short_context_needs_no_more_than_itself():
    assert KVCache(tiny_config(context_length=40)).capacity == 48


def test_more_than_the_context_is_refused():
    cache = KVCache(CONFIG)
    with pytest.raises(UsageError, match="^1001 tokens do not fit the model's context of 1000: "):
        cache.reserve(1001)
    assert cache.capacity == 1008
