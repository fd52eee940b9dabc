"""Attention over a `q8` cache for Hexagon: HVX for the integers, one number at a time for the rest."""

from __future__ import annotations

import numpy as np
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.attention import LOWEST, VisibleRuns
from gemcore.compiler.kernels.hvx import (
    VECTOR,
    WORDS,
    add_products,
    aligned,
    float_bits,
    zeros,
)
from gemcore.compiler.kernels.vector import (
    ROUNDER,
    Buffer,
    Expr,
    fma,
    four_values,
    intrinsic,
    lanes,
    local,
    store,
)
from gemcore.models.cache_layout import KEY_BLOCK, KEY_GROUP, key_block_bytes
from gemcore.models.config import ModelConfig
from gemcore.models.reference import (
    EXP2_COEFFICIENTS,
    EXP2_LOWEST,
    LOG2_E,
    SMALLEST_GROUP,
    WEIGHT_STEPS,
)

FLUSH = 32
"""Blocks after which sums move to 64 bits: 512 * 32767 * 127 is below 2**31."""

LINE = 4 * KEY_BLOCK
"""Bytes of 16 keys and four channels."""


def takes(config: ModelConfig) -> bool:
    """Whether HVX has attention for heads of this width."""
    return config.head_dim % 64 == 0


def attend(
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
    rows, groups = count * repeat, width // KEY_GROUP
    runs = VisibleRuns(placement, first, first + (count - 1))
    scores = T.alloc_buffer((rows, blocks + 1, KEY_BLOCK), "float32")
    steps = T.alloc_buffer((rows, blocks + 1, KEY_BLOCK), "int16")
    factors, largest = local((rows,), "float32"), local((rows,), "float32")
    codes = local((rows, width), "int8")
    scales, starts = local((rows, groups), "float32"), local((rows, groups), "int32")
    scalars = local((3,), "float32")
    with T.serial(rows) as row:
        own = (first + row // repeat, h * repeat + row % repeat)
        _round_query(isa, row, width, (q, *own), (codes, scales, starts), scalars)
        store(largest, T.float32(LOWEST), row)

    def score(place: Expr, block: Expr, prefix: bool) -> None:
        dots = aligned((groups, 2, WORDS), "int32")
        key_scales = aligned((-(-width // VECTOR), 2 * WORDS), "int32")
        skipped = _key_scales(key_scales, keys, h, block, width)
        total = local((1,), "float32")
        with T.serial(rows) as row:
            for g in range(groups):
                _key_products(dots, (codes, starts), keys, (h, block, row), g)
            with T.serial(KEY_BLOCK) as lane:
                store(total, T.float32(0), 0)
                for g in range(groups):
                    dot = dots[g, 0, lane] + dots[g, 1, KEY_BLOCK + lane]
                    at = skipped + g * KEY_BLOCK
                    word = key_scales[at // (2 * WORDS), at % (2 * WORDS) + lane]
                    factor = T.reinterpret(word, dtype="float32") * scales[row, g]
                    store(total, fma(isa, T.cast(dot, "float32"), factor, total[0], 1), 0)
                seen = runs.sees(block * KEY_BLOCK + lane, first + row // repeat, prefix)
                store(total, T.Select(seen, total[0], T.float32(LOWEST)), 0)
                store(largest, T.max(largest[row], total[0]), row)
                store(scores, total[0], row, place, lane)

    runs.for_each_block(score)
    with T.serial(rows) as row:
        _weigh(isa, runs, scores, largest, (values, h, width), row, steps, factors, scalars)
    _sum(runs, steps, factors, (values, h, width), (y, first, repeat), rows)


def _round_query(
    isa: InstructionSet,
    row: Expr,
    width: int,
    query: tuple[Buffer, Expr, Expr],
    outputs: tuple[Buffer, Buffer, Buffer],
    scalars: Buffer,
) -> None:
    """Codes and scales of one query, and where its integer sums begin; as `gem::quantize`."""
    q, t, head = query
    codes, scales, starts = outputs
    factor = T.float32(float(np.float32(width**-0.5 * LOG2_E)))
    total = local((1,), "int32")
    with T.serial(width // KEY_GROUP) as g:
        store(scalars, T.float32(0), 0)
        store(total, 0, 0)
        with T.serial(KEY_GROUP) as k:
            magnitude = intrinsic("llvm.fabs", "float32", q[t, head, g * KEY_GROUP + k])
            store(scalars, T.max(scalars[0], magnitude), 0)
        usable = scalars[0] >= T.float32(SMALLEST_GROUP)
        store(scalars, T.Select(usable, T.float32(127) / scalars[0], T.float32(0)), 1)
        with T.serial(KEY_GROUP) as k:
            value = q[t, head, g * KEY_GROUP + k]
            rounded = fma(isa, value, scalars[1], T.float32(ROUNDER), 1)
            code = T.cast(rounded - T.float32(ROUNDER), "int32")
            store(total, total[0] + code, 0)
            store(codes, T.cast(code, "int8"), row, g * KEY_GROUP + k)
        store(scales, scalars[0] / T.float32(127) * factor, row, g)
        store(starts, total[0] * -128, row, g)


def _key_products(
    dots: Buffer,
    queries: tuple[Buffer, Buffer],
    keys: Buffer,
    at: tuple[Expr, Expr, Expr],
    g: int,
) -> None:
    """Products of 16 keys with a query in one group; a vector holds two lines, whose sums are apart."""
    codes, starts = queries
    h, block, row = at
    store(dots, T.broadcast(starts[row, g], WORDS), g, 0, lanes(0, WORDS))
    store(dots, zeros(), g, 1, lanes(0, WORDS))
    for j in range(0, KEY_GROUP // 4, 2):
        start = (g * (KEY_GROUP // 4) + j) * LINE
        two = T.reinterpret(keys[h, block, lanes(start, VECTOR)], dtype="int32x32")
        for half in range(2):
            four = four_values(codes, row, g * KEY_GROUP + 4 * (j + half))
            total = add_products(dots[g, half, lanes(0, WORDS)], two, four)
            store(dots, total, g, half, lanes(0, WORDS))


def _key_scales(words: Buffer, keys: Buffer, h: Expr, block: Expr, width: int) -> int:
    """Write the scales of a block's keys as the bits of float32; gives the place of the first."""
    size = 2 * KEY_BLOCK * (width // KEY_GROUP)
    vectors = -(-size // VECTOR)
    # Whole vectors, up to the block's end: what comes before the scales is skipped.
    begin = key_block_bytes(width) - vectors * VECTOR
    for v in range(vectors):
        halves = T.reinterpret(keys[h, block, lanes(begin + v * VECTOR, VECTOR)], dtype="uint16x64")
        store(
            words,
            float_bits(T.cast(halves, "int32x64"), 2 * WORDS),
            v,
            lanes(0, 2 * WORDS),
        )
    return (vectors * VECTOR - size) // 2


def _weigh(
    isa: InstructionSet,
    runs: VisibleRuns,
    scores: Buffer,
    largest: Buffer,
    chosen: tuple[Buffer, Expr, int],
    row: Expr,
    steps: Buffer,
    factors: Buffer,
    scalars: Buffer,
) -> None:
    """Turn one row of scores into integers, and keep the factor that makes their sums the output."""
    values, h, width = chosen
    total, weight = local((1,), "int64"), local((1,), "float32")
    store(total, T.int64(0), 0)
    store(scalars, T.float32(0), 1)

    def add(place: Expr, block: Expr, _: bool) -> None:
        with T.serial(KEY_BLOCK) as lane:
            score = scores[row, place, lane]
            # A hidden slot weighs nothing, whatever its scale is.
            with T.If(score == T.float32(LOWEST)):
                with T.Then():
                    store(scores, T.float32(0), row, place, lane)
                with T.Else():
                    store(weight, _exp2(isa, score - largest[row]), 0)
                    store(total, total[0] + T.cast(T.cast(weight[0], "int32"), "int64"), 0)
                    four = values[h, block, lanes(KEY_BLOCK * width + 4 * lane, 4)]
                    store(
                        scores, weight[0] * T.reinterpret(four, dtype="float32"), row, place, lane
                    )
            store(scalars, T.max(scalars[1], scores[row, place, lane]), 1)

    runs.for_each_block(add)
    usable = scalars[1] >= T.float32(SMALLEST_GROUP)
    store(scalars, T.Select(usable, T.float32(WEIGHT_STEPS) / scalars[1], T.float32(0)), 2)
    share = T.float32(1) / T.cast(total[0], "float32")
    store(factors, scalars[1] / T.float32(WEIGHT_STEPS) * share, row)
    with T.serial(runs.blocks) as b, T.serial(KEY_BLOCK) as lane:
        rounded = fma(isa, scores[row, b, lane], scalars[2], T.float32(ROUNDER), 1)
        # Its lowest bits are the integer.
        store(steps, T.cast(T.reinterpret(rounded, dtype="int32"), "int16"), row, b, lane)


def _exp2(isa: InstructionSet, x: Expr) -> Expr:
    """`2**(24 + x)` for no `x` above 0, by the very steps of `gemcore.models.reference.exp2`."""
    scratch = local((3,), "float32")
    store(scratch, T.max(x, T.float32(EXP2_LOWEST)), 0)
    store(scratch, scratch[0] + T.float32(ROUNDER), 1)
    store(scratch, scratch[0] - (scratch[1] - T.float32(ROUNDER)), 0)
    first, *rest = (T.float32(float(np.float32(c))) for c in EXP2_COEFFICIENTS)
    store(scratch, first, 2)
    for coefficient in rest:
        store(scratch, fma(isa, scratch[2], scratch[0], coefficient, 1), 2)
    # The lowest bits of the rounded number are the power of two, which is added to the exponent.
    power = T.reinterpret(scratch[1], dtype="int32") << 23
    return T.reinterpret(T.reinterpret(scratch[2], dtype="int32") + power, dtype="float32")


def _sum(
    runs: VisibleRuns,
    steps: Buffer,
    factors: Buffer,
    chosen: tuple[Buffer, Expr, int],
    out: tuple[Buffer, Expr, int],
    rows: int,
) -> None:
    """Sums of integer weights times value codes, 64 channels at a time, and from them the output."""
    values, h, width = chosen
    y, first, repeat = out
    # As many rows at a time as leave registers for the values.
    together = next(n for n in (4, 3, 2, 1) if rows % n == 0)
    pieces = width // (2 * WORDS)
    with T.serial(rows // together * pieces) as part:
        begin, channel = part // pieces * together, part % pieces * 2 * WORDS
        sums = local((together, 2 * WORDS), "int64")
        acc = [[aligned((WORDS,), "int32") for _ in range(2)] for _ in range(together)]
        for r in range(together):
            with T.serial(2 * WORDS) as c:
                store(sums, T.int64(0), r, c)
        for count, place, block in runs.runs():
            with T.serial((count + (FLUSH - 1)) // FLUSH) as piece:
                for vector in (v for two in acc for v in two):
                    store(vector, zeros(), lanes(0, WORDS))
                with T.serial(T.min(count - piece * FLUSH, FLUSH)) as b:
                    at = (place + piece * FLUSH + b, block + piece * FLUSH + b)
                    _add_values(acc, steps, (values, h, width, channel), begin, at)
                for r, two in enumerate(acc):
                    for half, vector in enumerate(two):
                        with T.serial(WORDS) as c:
                            to = half * WORDS + c
                            store(sums, sums[r, to] + T.cast(vector[c], "int64"), r, to)
        for r in range(together):
            row = begin + r
            with T.serial(2 * WORDS) as c:
                total = T.cast(sums[r, c], "float32") * factors[row]
                place = (h * repeat + row % repeat) * width + channel + c
                store(y, total, first + row // repeat, place)


def _add_values(
    acc: list[list[Buffer]],
    steps: Buffer,
    chosen: tuple[Buffer, Expr, int, Expr],
    begin: Expr,
    at: tuple[Expr, Expr],
) -> None:
    """Add a block's products: two positions and 32 channels in one instruction."""
    values, h, width, channel = chosen
    place, block = at
    with T.serial(KEY_BLOCK // 2) as pair:
        start = (pair * width + channel) * 2
        codes = T.reinterpret(values[h, block, lanes(start, VECTOR)], dtype="int32x32")
        wide = intrinsic("llvm.hexagon.V6.vunpackb.128B", "int32x64", codes)
        for r, two in enumerate(acc):
            weights = T.reinterpret(steps[begin + r, place, lanes(2 * pair, 2)], dtype="int32")
            for half, vector in zip(("lo", "hi"), two, strict=True):
                part = intrinsic(f"llvm.hexagon.V6.{half}.128B", "int32x32", wide)
                name = "llvm.hexagon.V6.vdmpyhsat.acc.128B"
                total = intrinsic(name, "int32x32", vector[lanes(0, WORDS)], part, weights)
                store(vector, total, lanes(0, WORDS))
