"""Kernels around the cache: rotate and append, and attention over what is visible."""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.activations import for_each_token
from gemcore.compiler.kernels.vector import (
    LANES,
    Buffer,
    Expr,
    exp,
    fma,
    intrinsic,
    lanes,
    local,
    splat,
    store,
)
from gemcore.models.cache_layout import KEY_BLOCK, PLACEMENT_FIELDS
from gemcore.models.config import ModelConfig

POSITION, SLOT, PREFIX_START, PREFIX_END, START = range(PLACEMENT_FIELDS)
LOWEST = -3.4028234663852886e38

ROWS = 12
"""Sums that run side by side: enough to keep the multipliers busy, few enough for the registers."""


def rope_append(isa: InstructionSet, config: ModelConfig, cache_dtype: str = "float16") -> Any:
    """`gem::rope_append` for one layer."""
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    channels, context = (heads + 2 * kv_heads) * width, config.context_length
    half = width // 2
    step = math.gcd(half, LANES)

    def turn(
        qkv: Buffer, rotation: Buffer, position: Expr, t: Expr, c: Expr, h: Expr
    ) -> list[Expr]:
        """Both halves of `step` pairs of head `h`, turned."""
        cosine = rotation[position, lanes(c * step, step)]
        sine = rotation[position, lanes(half + c * step, step)]
        first = qkv[t, lanes(h * width + c * step, step)]
        second = qkv[t, lanes(h * width + half + c * step, step)]
        negated = second * splat(-1.0, step) * sine
        return [
            fma(isa, first, cosine, negated, step),
            fma(isa, second, cosine, first * sine, step),
        ]

    def body(arguments: tuple[Buffer, ...], q: Buffer, tokens: Expr) -> None:
        qkv, rotation, placement, keys, values = arguments

        def token(t: Expr) -> None:
            position, slot = placement[t, POSITION], placement[t, SLOT]
            with T.serial(heads) as h, T.serial(half // step) as c:
                for part, turned in enumerate(turn(qkv, rotation, position, t, c, h)):
                    store(q, turned, t, h, lanes(part * half + c * step, step))
            with T.serial(kv_heads) as h, T.serial(half // step) as c:
                turned = local((2, step), "float32")
                for part, value in enumerate(turn(qkv, rotation, position, t, c, heads + h)):
                    store(turned, value, part, lanes(0, step))
                for part in range(2):
                    for lane in range(step):
                        channel = part * half + c * step + lane
                        value = T.cast(turned[part, lane], cache_dtype)
                        store(keys, value, h, slot // KEY_BLOCK, channel, slot % KEY_BLOCK)
            with T.serial(kv_heads) as h, T.serial(width // step) as c:
                at = (heads + kv_heads + h) * width + c * step
                value = T.cast(qkv[t, lanes(at, step)], f"{cache_dtype}x{step}")
                store(values, value, h, slot, lanes(c * step, step))

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
        capacity = T.int64()
        qkv = T.match_buffer(qkv_, (n, channels), "float32")
        placement = T.match_buffer(placement_, (n, PLACEMENT_FIELDS), "int32")
        keys = T.match_buffer(keys_, (kv_heads, blocks, width, KEY_BLOCK), cache_dtype)
        values = T.match_buffer(values_, (kv_heads, capacity, width), cache_dtype)
        q = T.match_buffer(q_, (n, heads, width), "float32")
        with T.sblock("root"):
            T.reads(
                qkv[0:n, 0:channels],
                rotation[0:context, 0:width],
                placement[0:n, 0:PLACEMENT_FIELDS],
            )
            T.writes(
                keys[0:kv_heads, 0:blocks, 0:width, 0:KEY_BLOCK],
                values[0:kv_heads, 0:capacity, 0:width],
                q[0:n, 0:heads, 0:width],
            )
            body((qkv, rotation, placement, keys, values), q, n)

    return kernel


def attention(isa: InstructionSet, config: ModelConfig, cache_dtype: str = "float16") -> Any:
    """`gem::attention` for one layer.

    One thread takes one key-value head and a few consecutive tokens of one text, so that all the query
    heads that share the keys and values read them once. The scores of all visible blocks are kept, so
    that the largest is known before the first `exp`.
    """
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    together = max(1, ROWS // (heads // kv_heads))

    def body(arguments: tuple[Buffer, ...], y: Buffer, tokens: Expr, blocks: Expr) -> None:
        placement = arguments[3]
        tiles = (tokens + (together - 1)) // together
        with T.parallel(tiles * kv_heads) as job:
            first, h = job // kv_heads * together, job % kv_heads

            def one_by_one() -> None:
                with T.serial(T.min(tokens - first, together)) as m:
                    _attend(isa, config, arguments, y, first + m, h, blocks, 1)

            if together == 1:
                one_by_one()
                return
            with T.If(_one_text(placement, first, together, tokens)):
                with T.Then():
                    _attend(isa, config, arguments, y, first, h, blocks, together)
                with T.Else():
                    one_by_one()

    @T.prim_func(s_tir=True)
    def kernel(
        q_: T.handle, keys_: T.handle, values_: T.handle, placement_: T.handle, y_: T.handle
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        blocks = T.int64()
        capacity = T.int64()
        q = T.match_buffer(q_, (n, heads, width), "float32")
        keys = T.match_buffer(keys_, (kv_heads, blocks, width, KEY_BLOCK), cache_dtype)
        values = T.match_buffer(values_, (kv_heads, capacity, width), cache_dtype)
        placement = T.match_buffer(placement_, (n, PLACEMENT_FIELDS), "int32")
        y = T.match_buffer(y_, (n, heads * width), "float32")
        with T.sblock("root"):
            T.reads(
                q[0:n, 0:heads, 0:width],
                keys[0:kv_heads, 0:blocks, 0:width, 0:KEY_BLOCK],
                values[0:kv_heads, 0:capacity, 0:width],
                placement[0:n, 0:PLACEMENT_FIELDS],
            )
            T.writes(y[0:n, 0 : heads * width])
            body((q, keys, values, placement), y, n, blocks)

    return kernel


def _one_text(placement: Buffer, first: Expr, count: int, tokens: Expr) -> Expr:
    """Whether `count` tokens from `first` on are there, and lie one after another in one text."""
    # Never read beyond the end: the last token stands for those that are missing.
    last = T.min(first + (count - 1), tokens - 1)
    same = first + count <= tokens
    for field, step in ((PREFIX_START, 0), (PREFIX_END, 0), (START, 0), (SLOT, count - 1)):
        same = T.And(same, placement[last, field] == placement[first, field] + step)
    # In between, slots could only differ if two tokens shared one.
    for m in range(1, count - 1):
        middle = T.min(first + m, tokens - 1)
        same = T.And(same, placement[middle, SLOT] == placement[first, SLOT] + m)
        for field in (PREFIX_START, PREFIX_END, START):
            same = T.And(same, placement[middle, field] == placement[first, field])
    return same


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
    rows = [(m, r) for m in range(count) for r in range(repeat)]
    step = math.gcd(width, LANES)
    last = first + (count - 1)
    # Two runs of blocks are visible: the shared prefix, then the text's own.
    scores = T.alloc_buffer((len(rows), (blocks + 1) * KEY_BLOCK), "float32")
    prefix_block = placement[first, PREFIX_START] // KEY_BLOCK
    bounds = local((4,), "int32")
    prefix_end_block = (placement[first, PREFIX_END] + (KEY_BLOCK - 1)) // KEY_BLOCK
    store(bounds, prefix_end_block - prefix_block, 0)
    # A slot of the prefix is not seen a second time.
    store(bounds, T.max(placement[first, START], placement[first, PREFIX_END]), 3)
    store(bounds, bounds[3] // KEY_BLOCK, 1)
    store(bounds, placement[last, SLOT] // KEY_BLOCK + 1 - bounds[1], 2)

    def score(place: Expr, block: Expr, prefix: bool) -> None:
        acc = local((len(rows), LANES), "float32")
        for row in range(len(rows)):
            store(acc, splat(0.0), row, lanes(0))
        with T.serial(width) as d:
            key = T.cast(keys[h, block, d, lanes(0)], "float32x16")
            for row, (m, r) in enumerate(rows):
                query = splat(q[first + m, h * repeat + r, d])
                store(acc, fma(isa, query, key, acc[row, lanes(0)]), row, lanes(0))
        slot = T.broadcast(block * KEY_BLOCK, LANES) + T.ramp(0, 1, LANES)
        for row, (m, _) in enumerate(rows):
            if prefix:
                begin = T.broadcast(placement[first, PREFIX_START], LANES)
                end = T.broadcast(placement[first, PREFIX_END], LANES)
                visible = T.And(slot >= begin, slot < end)
            else:
                own = T.broadcast(placement[first + m, SLOT], LANES)
                visible = T.And(slot >= T.broadcast(bounds[3], LANES), slot <= own)
            value = T.Select(visible, acc[row, lanes(0)] * splat(width**-0.5), splat(LOWEST))
            store(scores, value, row, lanes(place * KEY_BLOCK))

    with T.serial(bounds[0]) as b:
        score(b, prefix_block + b, prefix=True)
    with T.serial(bounds[2]) as b:
        score(bounds[0] + b, bounds[1] + b, prefix=False)

    inverse = local((len(rows),), "float32")
    for row in range(len(rows)):
        _exponentials(isa, scores, row, bounds[0] + bounds[2], inverse)

    at_once = max(1, ROWS // len(rows))
    chunks = width // step
    for begin in range(0, chunks, at_once):
        part = range(begin, min(begin + at_once, chunks))
        acc = local((len(rows), len(part) * step), "float32")

        def place(row: int, c: int, acc: Buffer = acc, begin: int = begin) -> tuple[Any, ...]:
            return row, lanes((c - begin) * step, step)

        for row in range(len(rows)):
            for c in part:
                store(acc, splat(0.0, step), *place(row, c))

        def add(at: Expr, slot: Expr, acc: Buffer = acc, part: range = part) -> None:
            for c in part:
                value = T.cast(values[h, slot, lanes(c * step, step)], f"float32x{step}")
                for row in range(len(rows)):
                    weight = splat(scores[row, at], step)
                    total = fma(isa, weight, value, acc[place(row, c)], step)
                    store(acc, total, *place(row, c))

        prefix_start = placement[first, PREFIX_START]
        with T.serial(placement[first, PREFIX_END] - prefix_start) as p:
            add(prefix_start % KEY_BLOCK + p, prefix_start + p)
        with T.serial(placement[last, SLOT] + 1 - bounds[3]) as p:
            slot = bounds[3] + p
            add((bounds[0] - bounds[1]) * KEY_BLOCK + slot, slot)
        for row, (m, r) in enumerate(rows):
            for c in part:
                out = lanes((h * repeat + r) * width + c * step, step)
                total = acc[place(row, c)] * splat(inverse[row], step)
                store(y, total, first + m, out)


def _exponentials(
    isa: InstructionSet, scores: Buffer, row: int, blocks: Expr, inverse: Buffer
) -> None:
    """Turn one row of scores into `exp(score - largest)`, and keep one over their float64 total."""
    largest = local((LANES,), "float32")
    top = local((1,), "float32")
    total = local((LANES,), "float64")
    store(largest, splat(LOWEST), lanes(0))
    store(total, T.broadcast(T.float64(0), LANES), lanes(0))
    with T.serial(blocks) as b:
        store(largest, T.max(largest[lanes(0)], scores[row, lanes(b * KEY_BLOCK)]), lanes(0))
    store(top, intrinsic("llvm.vector.reduce.fmax", "float32", largest[lanes(0)]), 0)
    with T.serial(blocks) as b:
        at = lanes(b * KEY_BLOCK)
        scratch = local((3, LANES), "float32")
        # A hidden slot weighs nothing: its score is the lowest of all numbers.
        hidden = scores[row, at] == splat(LOWEST)
        weight = exp(isa, scores[row, at] - splat(top[0]), scratch)
        store(scores, T.Select(hidden, splat(0.0), weight), row, at)
        store(total, total[lanes(0)] + T.cast(scores[row, at], "float64x16"), lanes(0))
    whole = intrinsic("llvm.vector.reduce.fadd", "float64", T.float64(0), total[lanes(0)])
    store(inverse, T.float32(1) / T.cast(whole, "float32"), row)
