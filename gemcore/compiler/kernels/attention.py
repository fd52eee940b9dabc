"""Kernels around the cache: rotate and append, and attention over what is visible."""

from __future__ import annotations

import math
from collections.abc import Callable
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


def turn_pairs(
    isa: InstructionSet,
    width: int,
    arguments: tuple[Buffer, Buffer],
    position: Expr,
    t: Expr,
    c: Expr,
    h: Expr,
) -> list[Expr]:
    """Both halves of part `c` of the pairs of head `h`, turned; a part is as many as fit a vector."""
    qkv, rotation = arguments
    half = width // 2
    step = math.gcd(half, LANES)
    cosine = rotation[position, lanes(c * step, step)]
    sine = rotation[position, lanes(half + c * step, step)]
    first = qkv[t, lanes(h * width + c * step, step)]
    second = qkv[t, lanes(h * width + half + c * step, step)]
    negated = second * splat(-1.0, step) * sine
    return [
        fma(isa, first, cosine, negated, step),
        fma(isa, second, cosine, first * sine, step),
    ]


def rope_append(isa: InstructionSet, config: ModelConfig, cache_dtype: str = "float16") -> Any:
    """`gem::rope_append` for one layer."""
    heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
    channels, context = (heads + 2 * kv_heads) * width, config.context_length
    half = width // 2
    step = math.gcd(half, LANES)

    def body(arguments: tuple[Buffer, ...], q: Buffer, tokens: Expr) -> None:
        qkv, rotation, placement, keys, values = arguments

        def token(t: Expr) -> None:
            position, slot = placement[t, POSITION], placement[t, SLOT]
            with T.serial(heads) as h, T.serial(half // step) as c:
                for part, turned in enumerate(
                    turn_pairs(isa, width, (qkv, rotation), position, t, c, h)
                ):
                    store(q, turned, t, h, lanes(part * half + c * step, step))
            with T.serial(kv_heads) as h, T.serial(half // step) as c:
                turned = local((2, step), "float32")
                pairs = turn_pairs(isa, width, (qkv, rotation), position, t, c, heads + h)
                for part, value in enumerate(pairs):
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

    def body(arguments: tuple[Buffer, ...], y: Buffer, tokens: Expr, blocks: Expr) -> None:
        def attend(first: Expr, h: Expr, count: int) -> None:
            _attend(isa, config, arguments, y, first, h, blocks, count)

        for_each_tile_of_one_text(isa, config, arguments[3], tokens, attend)

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


def for_each_tile_of_one_text(
    isa: InstructionSet,
    config: ModelConfig,
    placement: Buffer,
    tokens: Expr,
    attend: Callable[[Expr, Expr, int], None],
) -> None:
    """On all threads, call `attend(first token, key-value head, tokens)` for tiles of one text each."""
    together = max(1, isa.side_by_side(ROWS) // (config.heads // config.kv_heads))
    tiles = (tokens + (together - 1)) // together
    with T.parallel(tiles * config.kv_heads) as job:
        # Later tokens see more: the longest jobs first, so that threads finish together.
        first = (tiles - 1 - job // config.kv_heads) * together
        h = job % config.kv_heads

        def one_by_one() -> None:
            with T.serial(T.min(tokens - first, together)) as m:
                attend(first + m, h, 1)

        if together == 1:
            one_by_one()
            return
        with T.If(_one_text(placement, first, together, tokens)):
            with T.Then():
                attend(first, h, together)
            with T.Else():
                one_by_one()


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


class VisibleRuns:
    """The two runs of the cache that tokens of one text see: the shared prefix, then their own slots.

    Scores are kept for the blocks of the first run, then for those of the second. In that row a block or
    a slot has a *place*.

    Args:
        placement: int32 `[tokens, 5]`.
        first, last: the first and the last token of the tile.
    """

    def __init__(self, placement: Buffer, first: Expr, last: Expr) -> None:
        self._placement, self._first, self._last = placement, first, last
        self._prefix_block = placement[first, PREFIX_START] // KEY_BLOCK
        # Blocks of the prefix, first own block, own blocks, first own slot.
        self._bounds = local((4,), "int32")
        end = (placement[first, PREFIX_END] + (KEY_BLOCK - 1)) // KEY_BLOCK
        store(self._bounds, end - self._prefix_block, 0)
        # A slot of the prefix is not seen a second time.
        start = T.max(placement[first, START], placement[first, PREFIX_END])
        store(self._bounds, start, 3)
        store(self._bounds, self._bounds[3] // KEY_BLOCK, 1)
        store(self._bounds, placement[last, SLOT] // KEY_BLOCK + 1 - self._bounds[1], 2)

    @property
    def blocks(self) -> Expr:
        """How many blocks are visible; one that both runs touch counts twice."""
        return self._bounds[0] + self._bounds[2]

    def runs(self) -> tuple[tuple[Expr, Expr, Expr], tuple[Expr, Expr, Expr]]:
        """Of each run how many blocks there are, the first one's place, and the first one."""
        bounds = self._bounds
        return (bounds[0], 0, self._prefix_block), (bounds[2], bounds[0], bounds[1])

    def for_each_block(self, body: Callable[[Expr, Expr, bool], None]) -> None:
        """Call `body(place, block, whether it is of the prefix)`, ascending."""
        with T.serial(self._bounds[0]) as b:
            body(b, self._prefix_block + b, True)
        with T.serial(self._bounds[2]) as b:
            body(self._bounds[0] + b, self._bounds[1] + b, False)

    def for_each_slot(self, body: Callable[[Expr, Expr], None]) -> None:
        """Call `body(place, slot)` for every slot that the last token sees, ascending."""
        start = self._placement[self._first, PREFIX_START]
        with T.serial(self._placement[self._first, PREFIX_END] - start) as p:
            body(start % KEY_BLOCK + p, start + p)
        bounds = self._bounds
        with T.serial(self._placement[self._last, SLOT] + 1 - bounds[3]) as p:
            slot = bounds[3] + p
            body((bounds[0] - bounds[1]) * KEY_BLOCK + slot, slot)

    def sees(self, slot: Expr, token: Expr, prefix: bool) -> Expr:
        """Whether the token sees `slot` in that run."""
        if prefix:
            begin = self._placement[self._first, PREFIX_START]
            return T.And(slot >= begin, slot < self._placement[self._first, PREFIX_END])
        return T.And(slot >= self._bounds[3], slot <= self._placement[token, SLOT])

    def visible(self, block: Expr, token: Expr, prefix: bool) -> Expr:
        """Which of the 16 slots of `block` in that run the token sees."""
        slot = T.broadcast(block * KEY_BLOCK, LANES) + T.ramp(0, 1, LANES)
        if prefix:
            begin = T.broadcast(self._placement[self._first, PREFIX_START], LANES)
            end = T.broadcast(self._placement[self._first, PREFIX_END], LANES)
            return T.And(slot >= begin, slot < end)
        own = T.broadcast(self._placement[token, SLOT], LANES)
        return T.And(slot >= T.broadcast(self._bounds[3], LANES), slot <= own)


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
    scores = T.alloc_buffer((len(rows), (blocks + 1) * KEY_BLOCK), "float32")
    runs = VisibleRuns(placement, first, last)
    largest = local((len(rows), LANES), "float32")
    for row in range(len(rows)):
        store(largest, splat(LOWEST), row, lanes(0))

    def score(place: Expr, block: Expr, prefix: bool) -> None:
        acc = local((len(rows), LANES), "float32")
        for row in range(len(rows)):
            store(acc, splat(0.0), row, lanes(0))
        with T.serial(width) as d:
            key = T.cast(keys[h, block, d, lanes(0)], "float32x16")
            for row, (m, r) in enumerate(rows):
                query = splat(q[first + m, h * repeat + r, d])
                store(acc, fma(isa, query, key, acc[row, lanes(0)]), row, lanes(0))
        for row, (m, _) in enumerate(rows):
            visible = runs.visible(block, first + m, prefix)
            value = T.Select(visible, acc[row, lanes(0)] * splat(width**-0.5), splat(LOWEST))
            store(largest, T.max(largest[row, lanes(0)], value), row, lanes(0))
            store(scores, value, row, lanes(place * KEY_BLOCK))

    runs.for_each_block(score)
    inverse = local((len(rows),), "float32")
    for row in range(len(rows)):
        _exponentials(isa, scores, largest, row, runs.blocks, inverse)

    at_once = max(1, isa.side_by_side(ROWS) // len(rows))
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

        runs.for_each_slot(add)
        for row, (m, r) in enumerate(rows):
            for c in part:
                out = lanes((h * repeat + r) * width + c * step, step)
                total = acc[place(row, c)] * splat(inverse[row], step)
                store(y, total, first + m, out)


def _exponentials(
    isa: InstructionSet, scores: Buffer, largest: Buffer, row: int, blocks: Expr, inverse: Buffer
) -> None:
    """Turn one row of scores into `exp(score - largest)`, and keep one over their float64 total."""
    top = local((1,), "float32")
    total = local((LANES,), "float64")
    store(total, T.broadcast(T.float64(0), LANES), lanes(0))
    store(top, intrinsic("llvm.vector.reduce.fmax", "float32", largest[row, lanes(0)]), 0)
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
