"""Kernels around a `q8` cache: rotate, round and append, and attention by integer dot products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels import attention_hvx, hvx
from gemcore.compiler.kernels.activations import for_each_token, quantize_row
from gemcore.compiler.kernels.attention import (
    LOWEST,
    POSITION,
    ROWS,
    SLOT,
    VisibleRuns,
    for_each_tile_of_one_text,
    turn_pairs,
)
from gemcore.compiler.kernels.vector import (
    LANES,
    ROUNDER,
    Buffer,
    CodeLoader,
    Expr,
    dot_accumulate,
    fma,
    four_values,
    halves,
    intrinsic,
    lanes,
    local,
    splat,
    store,
)
from gemcore.models.cache_layout import (
    KEY_BLOCK,
    KEY_GROUP,
    PLACEMENT_FIELDS,
    key_block_bytes,
    value_block_bytes,
)
from gemcore.models.config import ModelConfig
from gemcore.models.reference import (
    EXP2_COEFFICIENTS,
    EXP2_LOWEST,
    LOG2_E,
    SMALLEST_GROUP,
    WEIGHT_STEPS,
)

PAIRS = KEY_BLOCK // 2
FLUSH = 32
"""Blocks after which integer sums move to float64: 512 * 32767 * 127 and 32 * 2**24 are below 2**31."""


def rope_append_q8(isa: InstructionSet, config: ModelConfig) -> Any:
    """`gem::rope_append_q8` for one layer."""
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    channels, context = (heads + 2 * kv_heads) * width, config.context_length
    half, groups = width // 2, width // KEY_GROUP
    step = math.gcd(half, LANES)
    key_bytes, value_bytes = key_block_bytes(width), value_block_bytes(width)

    def append_key(
        keys: Buffer, turned: Buffer, h: Expr, block: Expr, lane: Expr, room: tuple[Buffer, ...]
    ) -> None:
        codes, scales, _ = room
        quantize_row(isa, 0, width, lambda column: turned[0, lanes(column)], room)
        with T.serial(width // 4) as c:
            four = T.reinterpret(codes[0, lanes(4 * c, 4)], dtype="uint8x4")
            biased = T.bitwise_xor(four, T.broadcast(T.uint8(128), 4))
            store(keys, biased, h, block, lanes(4 * KEY_BLOCK * c + 4 * lane, 4))
        for g in range(groups):
            two = T.reinterpret(T.cast(scales[0, g], "float16"), dtype="uint8x2")
            at = KEY_BLOCK * (width + 2 * g) + 2 * lane
            store(keys, two, h, block, lanes(at, 2))

    def append_value(
        values: Buffer, own: Buffer, h: Expr, block: Expr, lane: Expr, room: tuple[Buffer, ...]
    ) -> None:
        codes, scales, _ = room
        quantize_row(isa, 0, width, lambda column: own[0, lanes(column)], room, width)
        with T.serial(width) as c:
            code = T.reinterpret(codes[0, c], dtype="uint8")
            store(values, code, h, block, lane // 2 * 2 * width + 2 * c + lane % 2)
        four = T.reinterpret(scales[0, 0], dtype="uint8x4")
        store(values, four, h, block, lanes(KEY_BLOCK * width + 4 * lane, 4))

    def body(arguments: tuple[Buffer, ...], q: Buffer, tokens: Expr) -> None:
        qkv, rotation, placement, keys, values = arguments

        def token(t: Expr) -> None:
            position, slot = placement[t, POSITION], placement[t, SLOT]
            block, lane = slot // KEY_BLOCK, slot % KEY_BLOCK
            inputs = (qkv, rotation)
            with T.serial(heads) as h, T.serial(half // step) as c:
                pairs = turn_pairs(isa, width, inputs, position, t, c, h)
                for part, value in enumerate(pairs):
                    store(q, value, t, h, lanes(part * half + c * step, step))
            with T.serial(kv_heads) as h:
                row = local((1, width), "float32")
                room = (
                    local((1, width), "int8"),
                    local((1, groups), "float32"),
                    local((1, groups), "int32"),
                )
                with T.serial(half // step) as c:
                    pairs = turn_pairs(isa, width, inputs, position, t, c, heads + h)
                    for part, value in enumerate(pairs):
                        store(row, value, 0, lanes(part * half + c * step, step))
                append_key(keys, row, h, block, lane, room)
                with T.serial(width // LANES) as c:
                    at = (heads + kv_heads + h) * width + c * LANES
                    store(row, qkv[t, lanes(at)], 0, lanes(c * LANES))
                append_value(values, row, h, block, lane, room)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(
        qkv_: T.handle,
        rotation: T.Buffer((context, width), "float32"),
        placement_: T.handle,
        keys_: T.handle,
        values_: T.handle,
        q_: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        blocks = T.int64()
        qkv = T.match_buffer(qkv_, (n, channels), "float32")
        placement = T.match_buffer(placement_, (n, PLACEMENT_FIELDS), "int32")
        keys = T.match_buffer(keys_, (kv_heads, blocks, key_bytes), "uint8")
        values = T.match_buffer(values_, (kv_heads, blocks, value_bytes), "uint8")
        q = T.match_buffer(q_, (n, heads, width), "float32")
        with T.sblock("root"):
            T.reads(
                qkv[0:n, 0:channels],
                rotation[0:context, 0:width],
                placement[0:n, 0:PLACEMENT_FIELDS],
            )
            T.writes(
                keys[0:kv_heads, 0:blocks, 0:key_bytes],
                values[0:kv_heads, 0:blocks, 0:value_bytes],
                q[0:n, 0:heads, 0:width],
            )
            body((qkv, rotation, placement, keys, values), q, n)

    return kernel


def attention_q8(isa: InstructionSet, config: ModelConfig) -> Any:
    """`gem::attention_q8` for one layer; cut into jobs as `attention` is."""
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    key_bytes, value_bytes = key_block_bytes(width), value_block_bytes(width)
    vectors = isa.dot == "hvx" and attention_hvx.takes(config)

    def body(arguments: tuple[Buffer, ...], y: Buffer, tokens: Expr, blocks: Expr) -> None:
        def attend(first: Expr, h: Expr, count: int) -> None:
            make = attention_hvx.attend if vectors else _attend
            make(isa, config, arguments, y, first, h, blocks, count)

        for_each_tile_of_one_text(isa, config, arguments[3], tokens, attend)

    @T.prim_func(s_tir=True)
    def kernel(
        q_: T.handle, keys_: T.handle, values_: T.handle, placement_: T.handle, y_: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        blocks = T.int64()
        q = T.match_buffer(q_, (n, heads, width), "float32")
        keys = T.match_buffer(keys_, (kv_heads, blocks, key_bytes), "uint8")
        values = T.match_buffer(values_, (kv_heads, blocks, value_bytes), "uint8")
        placement = T.match_buffer(placement_, (n, PLACEMENT_FIELDS), "int32")
        y = T.match_buffer(y_, (n, heads * width), "float32")
        with T.sblock("root"):
            T.reads(
                q[0:n, 0:heads, 0:width],
                keys[0:kv_heads, 0:blocks, 0:key_bytes],
                values[0:kv_heads, 0:blocks, 0:value_bytes],
                placement[0:n, 0:PLACEMENT_FIELDS],
            )
            T.writes(y[0:n, 0 : heads * width])
            body((q, keys, values, placement), y, n, blocks)

    return hvx.marked(kernel, isa) if vectors else kernel


def _attend(
    isa: InstructionSet,
    config: ModelConfig,
    arguments: tuple[Buffer, ...],
    y: Buffer,
    first: Expr,
    h: Expr,
    blocks: Expr,
    count: int,
) -> None:
    """Attention of `count` consecutive tokens of one text and all query heads of key-value head `h`."""
    q, keys, values, placement = arguments
    width, repeat = config.head_dim, config.heads // config.kv_heads
    rows = count * repeat
    runs = VisibleRuns(placement, first, first + (count - 1))
    # A block that both runs touch has two places.
    scores = T.alloc_buffer((rows, blocks + 1, LANES), "float32")
    steps = T.alloc_buffer((rows, blocks + 1, LANES), "int16")
    factors = local((rows,), "float32")
    queries = _rounded_queries(isa, config, q, first, h, rows)
    largest = local((rows, LANES), "float32")
    for row in range(rows):
        store(largest, splat(LOWEST), row, lanes(0))

    def score(place: Expr, block: Expr, prefix: bool) -> None:
        acc = _scores(isa, queries, keys, h, block, rows, width)
        for row in range(rows):
            visible = runs.visible(block, first + row // repeat, prefix)
            value = T.Select(visible, acc[row, lanes(0)], splat(LOWEST))
            store(largest, T.max(largest[row, lanes(0)], value), row, lanes(0))
            store(scores, value, row, place, lanes(0))

    runs.for_each_block(score)
    with T.serial(rows) as row:
        _weights(isa, runs, scores, largest, (values, h, KEY_BLOCK * width), row, steps, factors)

    parts = width // LANES
    side = next(n for n in range(max(1, isa.side_by_side(ROWS) // rows), 0, -1) if parts % n == 0)
    with T.serial(parts // side) as part:
        begin = part * (side * LANES)
        sums = _weighted_sums(isa, runs, steps, (values, h, begin), rows, width, side)
        for row in range(rows):
            for c in range(side):
                total = T.cast(sums[row, lanes(c * LANES)], "float32x16")
                out = lanes((h * repeat + row % repeat) * width + begin + c * LANES)
                store(y, total * splat(factors[row]), first + row // repeat, out)


def _rounded_queries(
    isa: InstructionSet, config: ModelConfig, q: Buffer, first: Expr, h: Expr, rows: int
) -> tuple[Buffer, Buffer, Buffer]:
    """Codes of the queries `[rows, head_dim]`, their scales, and where their integer sums begin."""
    width, repeat = config.head_dim, config.heads // config.kv_heads
    groups = width // KEY_GROUP
    codes = local((rows, width), "int8")
    scales, starts = local((rows, groups), "float32"), local((rows, groups), "int32")
    # Where the dot product takes the codes as signed, their offset is gone already.
    factor = T.float32(float(np.float32(width**-0.5 * LOG2_E)))
    offset = 0 if isa.signed_codes or isa.dot == "avx2" else 128
    with T.serial(rows) as row:

        def query(column: Expr) -> Expr:
            return q[first + row // repeat, h * repeat + row % repeat, lanes(column)]

        quantize_row(isa, row, width, query, (codes, scales, starts))
        for g in range(groups):
            store(scales, scales[row, g] * factor, row, g)
            store(starts, starts[row, g] * -offset, row, g)
    return codes, scales, starts


def _scores(
    isa: InstructionSet,
    queries: tuple[Buffer, Buffer, Buffer],
    keys: Buffer,
    h: Expr,
    block: Expr,
    rows: int,
    width: int,
) -> Buffer:
    """Scores of 16 keys with `rows` queries: a local float32 buffer `[rows, 16]`."""
    codes, scales, starts = queries
    acc = local((rows, LANES), "float32")
    for row in range(rows):
        store(acc, splat(0.0), row, lanes(0))
    with T.serial(width // KEY_GROUP) as g:
        dots = local((rows, LANES), "int32")
        scale = local((LANES,), "float32")
        for row in range(rows):
            store(dots, T.broadcast(starts[row, g], LANES), row, lanes(0))
        with T.serial(KEY_GROUP // 4) as j:

            def load(start: int, size: int) -> Expr:
                return keys[h, block, lanes((g * (KEY_GROUP // 4) + j) * 64 + start, size)]

            for row in range(rows):
                four = four_values(codes, row, g * KEY_GROUP + 4 * j)
                dot_accumulate(isa, dots, row, load, four, 8)
        store(scale, halves(keys, h, block, KEY_BLOCK * width + 2 * KEY_BLOCK * g), lanes(0))
        for row in range(rows):
            dot = T.cast(dots[row, lanes(0)], "float32x16")
            factor = scale[lanes(0)] * splat(scales[row, g])
            store(acc, fma(isa, dot, factor, acc[row, lanes(0)]), row, lanes(0))
    return acc


def _weights(
    isa: InstructionSet,
    runs: VisibleRuns,
    scores: Buffer,
    largest: Buffer,
    value_scales: tuple[Buffer, Expr, int],
    row: Expr,
    steps: Buffer,
    factors: Buffer,
) -> None:
    """Turn one row of scores into integers, and keep the factor that makes their sums the output."""
    values, h, offset = value_scales
    scalars = local((3,), "float32")
    total, most = local((LANES,), "float64"), local((LANES,), "float32")
    part = local((LANES,), "int32")
    store(scalars, intrinsic("llvm.vector.reduce.fmax", "float32", largest[row, lanes(0)]), 0)
    store(total, T.broadcast(T.float64(0), LANES), lanes(0))
    store(most, splat(0.0), lanes(0))

    def weigh(place: Expr, block: Expr) -> None:
        at = (row, place, lanes(0))
        weight = local((LANES,), "float32")
        # A hidden slot weighs nothing, whatever its scale is.
        hidden = scores[at] == splat(LOWEST)
        value = _exp2(isa, scores[at] - splat(scalars[0]))
        store(weight, T.Select(hidden, splat(0.0), value), lanes(0))
        store(part, part[lanes(0)] + T.cast(weight[lanes(0)], "int32x16"), lanes(0))
        scale = T.reinterpret(values[h, block, lanes(offset, 4 * LANES)], dtype="float32x16")
        product = T.Select(hidden, splat(0.0), weight[lanes(0)] * scale)
        store(scores, product, *at)
        store(most, T.max(most[lanes(0)], scores[at]), lanes(0))

    for run in runs.runs():
        with T.serial((run[0] + (FLUSH - 1)) // FLUSH) as piece:
            store(part, T.broadcast(0, LANES), lanes(0))
            _for_each_in_piece(run, piece, weigh)
            store(total, total[lanes(0)] + T.cast(part[lanes(0)], "float64x16"), lanes(0))
    store(scalars, intrinsic("llvm.vector.reduce.fmax", "float32", most[lanes(0)]), 1)
    usable = scalars[1] >= T.float32(SMALLEST_GROUP)
    inverse = T.float32(WEIGHT_STEPS) / scalars[1]
    store(scalars, T.Select(usable, inverse, T.float32(0)), 2)
    whole = intrinsic("llvm.vector.reduce.fadd", "float64", T.float64(0), total[lanes(0)])
    share = T.float32(1) / T.cast(whole, "float32")
    store(factors, scalars[1] / T.float32(WEIGHT_STEPS) * share, row)
    with T.serial(runs.blocks) as b:
        rounded = fma(isa, scores[row, b, lanes(0)], splat(scalars[2]), splat(ROUNDER))
        # Its lowest bits are the integer.
        store(steps, T.cast(T.reinterpret(rounded, dtype="int32x16"), "int16x16"), row, b, lanes(0))


def _for_each_in_piece(
    run: tuple[Expr, Expr, Expr], piece: Expr, body: Callable[[Expr, Expr], None]
) -> None:
    """Call `body(place, block)` for the blocks of one piece of a run."""
    count, place, block = run
    with T.serial(T.min(count - piece * FLUSH, FLUSH)) as b:
        body(place + piece * FLUSH + b, block + piece * FLUSH + b)


def _exp2(isa: InstructionSet, x: Expr) -> Expr:
    """`2**(24 + x)` for no `x` above 0, by the very steps of `gemcore.models.reference.exp2`."""
    scratch = local((3, LANES), "float32")
    at = lanes(0)
    store(scratch, T.max(x, splat(EXP2_LOWEST)), 0, at)
    store(scratch, scratch[0, at] + splat(ROUNDER), 1, at)
    store(scratch, scratch[0, at] - (scratch[1, at] - splat(ROUNDER)), 0, at)
    store(scratch, splat(EXP2_COEFFICIENTS[0]), 2, at)
    for coefficient in EXP2_COEFFICIENTS[1:]:
        store(scratch, fma(isa, scratch[2, at], scratch[0, at], splat(coefficient)), 2, at)
    # The lowest bits of the rounded number are the power of two, which is added to the exponent.
    power = T.reinterpret(scratch[1, at], dtype="int32x16") << T.broadcast(23, LANES)
    return T.reinterpret(
        T.reinterpret(scratch[2, at], dtype="int32x16") + power, dtype="float32x16"
    )


def _weighted_sums(
    isa: InstructionSet,
    runs: VisibleRuns,
    steps: Buffer,
    chosen: tuple[Buffer, Expr, Expr],
    rows: int,
    width: int,
    side: int,
) -> Buffer:
    """Sums of integer weights times value codes: a local float64 buffer `[rows, side * 16]`.

    `chosen` are the values, the head and the first of the channels.
    """
    values, h, begin = chosen
    sums = local((rows, side * LANES), "float64")
    chunks = [(row, lanes(c * LANES), c * LANES) for row in range(rows) for c in range(side)]
    for row, at, _ in chunks:
        store(sums, T.broadcast(T.float64(0), LANES), row, at)
    for run in runs.runs():
        with T.serial((run[0] + (FLUSH - 1)) // FLUSH) as piece:
            acc = local((len(chunks), LANES), "int32")
            for i in range(len(chunks)):
                store(acc, T.broadcast(0, LANES), i, lanes(0))

            def add(place: Expr, block: Expr, acc: Buffer = acc) -> None:
                with T.serial(PAIRS) as pair:
                    for i, (row, _, channel) in enumerate(chunks):
                        here = (pair * width + begin + channel) * 2

                        def codes(start: int, size: int, here: Expr = here) -> Expr:
                            return values[h, block, lanes(here + start, size)]

                        two = steps[row, place, lanes(2 * pair, 2)]
                        _add_two_products(isa, acc, i, codes, T.reinterpret(two, dtype="int32"))

            _for_each_in_piece(run, piece, add)
            for i, (row, to, _) in enumerate(chunks):
                store(sums, sums[row, to] + T.cast(acc[i, lanes(0)], "float64x16"), row, to)
    return sums


def _add_two_products(
    isa: InstructionSet, acc: Buffer, i: int, codes: CodeLoader, weight: Expr
) -> None:
    """Add to int32 `acc[i, 0:16]` the products of 16 channels x 2 positions with two int16 weights."""
    wide = T.cast(T.reinterpret(codes(0, 32), dtype="int8x32"), "int16x32")
    if isa.dot == "vnni512":
        weights = T.reinterpret(T.broadcast(weight, 16), dtype="int16x32")
        name = "llvm.x86.avx512.vpdpwssd.512"
        store(acc, intrinsic(name, "int32x16", acc[i, lanes(0)], wide, weights), i, lanes(0))
        return
    if isa.dot == "avx2":
        weights = T.reinterpret(T.broadcast(weight, 8), dtype="int16x16")
        for part in range(2):
            at = lanes(8 * part, 8)
            half = T.cast(T.reinterpret(codes(16 * part, 16), dtype="int8x16"), "int16x16")
            pairs = intrinsic("llvm.x86.avx2.pmadd.wd", "int32x8", half, weights)
            store(acc, acc[i, at] + pairs, i, at)
        return
    words = T.reinterpret(wide, dtype="int32x16")
    low, high = (words << T.broadcast(16, 16)) >> T.broadcast(16, 16), words >> T.broadcast(16, 16)
    first, second = (weight << 16) >> 16, weight >> 16
    total = acc[i, lanes(0)] + low * T.broadcast(first, 16) + high * T.broadcast(second, 16)
    store(acc, total, i, lanes(0))
