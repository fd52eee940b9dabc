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

POSITION, SLOT, PREFIX_END, START = range(PLACEMENT_FIELDS)
LOWEST = -3.4028234663852886e38


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

    One thread takes one token and one key-value head, so that the query heads that share it read the
    cache once. Scores of all visible blocks are kept, so the largest is known before the first `exp`.
    """
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    repeat = heads // kv_heads
    step = math.gcd(width, LANES)
    scale = width**-0.5

    def body(arguments: tuple[Buffer, ...], y: Buffer, tokens: Expr, blocks: Expr) -> None:
        with T.parallel(tokens * kv_heads) as job:
            one_head(arguments, y, job // kv_heads, job % kv_heads, blocks)

    def one_head(arguments: tuple[Buffer, ...], y: Buffer, t: Expr, h: Expr, blocks: Expr) -> None:
        q, keys, values, placement = arguments
        # Two runs of blocks are visible: the shared prefix, then the token's own sequence.
        scores = T.alloc_buffer((repeat, (blocks + 1) * KEY_BLOCK), "float32")
        largest = local((repeat, LANES), "float32")
        total = local((repeat, LANES), "float64")
        bounds = local((4,), "int32")
        store(bounds, (placement[t, PREFIX_END] + (KEY_BLOCK - 1)) // KEY_BLOCK, 0)
        store(bounds, placement[t, START] // KEY_BLOCK, 1)
        store(bounds, placement[t, SLOT] // KEY_BLOCK + 1 - bounds[1], 2)
        for r in range(repeat):
            store(largest, splat(LOWEST), r, lanes(0))
            store(total, T.broadcast(T.float64(0), LANES), r, lanes(0))

        def score(place: Expr, block: Expr, prefix: bool) -> None:
            acc = local((repeat, LANES), "float32")
            for r in range(repeat):
                store(acc, splat(0.0), r, lanes(0))
            with T.serial(width) as d:
                key = T.cast(keys[h, block, d, lanes(0)], "float32x16")
                for r in range(repeat):
                    query = splat(q[t, h * repeat + r, d])
                    store(acc, fma(isa, query, key, acc[r, lanes(0)]), r, lanes(0))
            slot = T.broadcast(block * KEY_BLOCK, LANES) + T.ramp(0, 1, LANES)
            if prefix:
                visible = slot < T.broadcast(placement[t, PREFIX_END], LANES)
            else:
                # A slot of the prefix was already seen.
                start = T.max(placement[t, START], placement[t, PREFIX_END])
                visible = T.And(
                    slot >= T.broadcast(start, LANES),
                    slot <= T.broadcast(placement[t, SLOT], LANES),
                )
            for r in range(repeat):
                value = T.Select(visible, acc[r, lanes(0)] * splat(scale), splat(LOWEST))
                store(scores, value, r, lanes(place * KEY_BLOCK))
                store(largest, T.max(largest[r, lanes(0)], value), r, lanes(0))

        with T.serial(bounds[0]) as b:
            score(b, b, prefix=True)
        with T.serial(bounds[2]) as b:
            score(bounds[0] + b, bounds[1] + b, prefix=False)

        top = local((repeat,), "float32")
        for r in range(repeat):
            store(top, intrinsic("llvm.vector.reduce.fmax", "float32", largest[r, lanes(0)]), r)
        with T.serial(bounds[0] + bounds[2]) as b:
            for r in range(repeat):
                at = lanes(b * KEY_BLOCK)
                scratch = local((3, LANES), "float32")
                # A hidden slot weighs nothing: its score is the lowest of all numbers.
                hidden = scores[r, at] == splat(LOWEST)
                weight = exp(isa, scores[r, at] - splat(top[r]), scratch)
                store(scores, T.Select(hidden, splat(0.0), weight), r, at)
                wide = T.cast(scores[r, at], "float64x16")
                store(total, total[r, lanes(0)] + wide, r, lanes(0))

        acc = local((repeat, width), "float32")
        for r in range(repeat):
            for c in range(width // step):
                store(acc, splat(0.0, step), r, lanes(c * step, step))

        def add(place: Expr, slot: Expr) -> None:
            for c in range(width // step):
                at = lanes(c * step, step)
                value = T.cast(values[h, slot, at], f"float32x{step}")
                for r in range(repeat):
                    weight = splat(scores[r, place], step)
                    store(acc, fma(isa, weight, value, acc[r, at], step), r, at)

        with T.serial(placement[t, PREFIX_END]) as p:
            add(p, p)
        first = T.max(placement[t, START], placement[t, PREFIX_END])
        with T.serial(placement[t, SLOT] + 1 - first) as p:
            add(bounds[0] * KEY_BLOCK + first - bounds[1] * KEY_BLOCK + p, first + p)

        for r in range(repeat):
            inverse = local((1,), "float32")
            sum64 = intrinsic(
                "llvm.vector.reduce.fadd", "float64", T.float64(0), total[r, lanes(0)]
            )
            store(inverse, T.float32(1) / T.cast(sum64, "float32"), 0)
            for c in range(width // step):
                at = lanes((h * repeat + r) * width + c * step, step)
                store(y, acc[r, lanes(c * step, step)] * splat(inverse[0], step), t, at)

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
