"""What kernels move, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.packing import packed_shape
from gemcore.runtime.traffic import Argument, Traffic, kernel_traffic
from gemcore.schemes import SCHEMES


def activation(*shape, dtype=np.float32):
    return Argument(np.zeros(shape, dtype))


def weight(*shape, dtype=np.uint8):
    return Argument(np.zeros(shape, dtype), weight=True)


def cache(array):
    return Argument(array, cache=True)


def caches(kv_heads, capacity, width):
    keys = np.zeros((kv_heads, capacity // 16, width, 16), np.float16)
    return cache(keys), cache(np.zeros((kv_heads, capacity, width), np.float16))


def placement(rows):
    return Argument(np.array(rows, np.int32).reshape(-1, 5))


@given(
    tokens=st.integers(1, 40),
    inputs=st.integers(1, 8).map(lambda groups: 32 * groups),
    outputs=st.integers(1, 100),
    residual=st.booleans(),
)
def test_a_product_reads_its_weight_whole(tokens, inputs, outputs, residual):
    packed = weight(*packed_shape(SCHEMES["q4a-g32"], (outputs, inputs)))
    groups = inputs // 32
    arguments = [
        activation(tokens, inputs, dtype=np.int8),
        activation(tokens, groups),
        activation(tokens, groups, dtype=np.int32),
        packed,
        *([activation(tokens, outputs)] if residual else []),
        activation(tokens, outputs),
    ]
    moved = kernel_traffic(f"qlinear_{inputs}_{outputs}", arguments)
    # 5 bits a weight: codes, and a scale and a minimum of 16 bits for 32 of them.
    stored = -(-outputs // 16) * 16 * inputs * 5 // 8
    assert packed.array.nbytes == stored
    assert moved.memory == stored
    added = 4 * tokens * outputs if residual else 0
    assert moved.read == stored + tokens * (inputs + 8 * groups) + added
    assert moved.written == 4 * tokens * outputs
    assert moved.multiply_accumulates == tokens * inputs * outputs


@pytest.mark.parametrize("name", ["quantize_64", "rms_norm_quantize_64", "silu_mul_quantize_64_1"])
def test_rounding_writes_values_scales_and_sums(name):
    outputs = [activation(3, 64, dtype=np.int8), activation(3, 2), activation(3, 2, dtype=np.int32)]
    moved = kernel_traffic(name, [activation(3, 64), *outputs])
    assert moved == Traffic(read=3 * 64 * 4, written=3 * (64 + 8 + 8))


def test_an_embedding_reads_the_tiles_of_its_rows():
    ids = Argument(np.array([0, 5, 15, 16, 200], np.int32))
    packed = weight(20, 2, 544)
    moved = kernel_traffic("embedding_320_64", [ids, packed, activation(5, 64)])
    assert moved.memory == 3 * 2 * 544
    assert moved.read == moved.memory + 20
    assert moved.written == 5 * 64 * 4


def test_rows_are_taken_one_by_one():
    wanted = activation(2, dtype=np.int32)
    moved = kernel_traffic("take", [activation(50, 64), wanted, activation(2, 64)])
    assert moved == Traffic(read=2 * 64 * 4 + 8, written=2 * 64 * 4)


def test_appending_writes_one_place_a_token_and_reads_only_its_rotation():
    keys, values = caches(2, 64, 16)
    rows = [[10, 20, 0, 0, 0], [11, 21, 0, 0, 0], [11, 22, 0, 0, 0]]
    table = weight(128, 16, dtype=np.float32)
    moved = kernel_traffic(
        "rope_append",
        [activation(3, 8 * 16), table, placement(rows), keys, values, activation(3, 4, 16)],
    )
    appended = 3 * 2 * 2 * 16 * 2
    assert moved.memory == 2 * 16 * 4 + appended
    assert moved.read == 3 * 8 * 16 * 4 + 2 * 16 * 4 + 3 * 5 * 4
    assert moved.written == appended + 3 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("rows", "slots", "blocks"),
    [
        ([[0, 0, 0, 0, 0]], 1, 1),
        ([[36, 36, 0, 0, 0]], 37, 3),
        ([[15, 15, 0, 0, 0], [16, 16, 0, 0, 0]], 17, 2),
        # Two sequences of their own beside a prefix of 20 slots, which both see.
        ([[20, 33, 0, 20, 32], [20, 49, 0, 20, 48]], 24, 4),
        # A prefix that does not begin at the front.
        ([[3, 60, 34, 37, 60]], 4, 2),
    ],
)
def test_attention_reads_what_is_visible(rows, slots, blocks):
    keys, values = caches(2, 64, 16)
    queries, output = activation(len(rows), 4, 16), activation(len(rows), 64)
    moved = kernel_traffic("attention", [queries, keys, values, placement(rows), output])
    visible = 2 * 16 * 2 * (slots + 16 * blocks)
    assert moved.memory == visible
    assert moved.read == visible + len(rows) * (64 * 4 + 5 * 4)
    assert moved.written == len(rows) * 64 * 4


def test_only_experts_that_were_chosen_are_read():
    chosen = np.zeros((3, 4), np.float32)
    chosen[0, 1] = chosen[2, 1] = chosen[2, 3] = 0.5
    down, up = weight(4, 64, 8, dtype=np.float32), weight(4, 8, 32, dtype=np.float32)
    x, y = activation(3, 64), activation(3, 32)
    size = 64 * 8 + 8 * 32
    deltas = [Argument(chosen), down, up]
    moved = kernel_traffic("routed_lora_4_64_8_32", [x, y, *deltas])
    assert moved.memory == 2 * size * 4
    assert moved.multiply_accumulates == 3 * size
    # Two of three rows are added to.
    assert moved.written == 2 * 32 * 4
    assert moved.read == 2 * size * 4 + chosen.nbytes + 3 * 64 * 4 + 2 * 32 * 4
    rounded = [activation(3, 64, dtype=np.int8), activation(3, 2)]
    moved = kernel_traffic("routed_lora_q8_4_64_8_32", [*rounded, y, *deltas])
    assert moved.read == 2 * size * 4 + chosen.nbytes + 3 * 64 + 3 * 2 * 4 + 2 * 32 * 4


def test_of_an_unknown_kernel_everything_is_counted_and_the_last_is_the_output():
    moved = kernel_traffic("fused_add_1", [activation(2, 8), weight(8), activation(2, 8)])
    assert moved == Traffic(read=64 + 8, written=64, memory=8)
    assert kernel_traffic("nothing", []) == Traffic()


def test_traffic_adds_up():
    one = Traffic(read=2, written=4, memory=6, multiply_accumulates=8)
    assert one + one == Traffic(read=4, written=8, memory=12, multiply_accumulates=16)
    assert (one + one) / 2 == one
