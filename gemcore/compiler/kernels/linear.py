"""Products of activations with packed weights: one token or many, the same bits either way."""

from __future__ import annotations

from itertools import product
from typing import Any

import attrs
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels import hvx, neon
from gemcore.compiler.kernels.vector import (
    LANES,
    Buffer,
    CodeLoader,
    Expr,
    byte_minima,
    byte_scales,
    dot_accumulate,
    fma,
    four_values,
    halves,
    lanes,
    local,
    prefetch,
    splat,
    store,
    unpack_codes,
)
from gemcore.schemes import DOTS, GROUP, TILE, Scheme


def qlinear(
    isa: InstructionSet, scheme: Scheme, inputs: int, outputs: int, *, residual: bool = False
) -> Any:
    """`gem::qlinear` for a packed weight `[outputs, inputs]`; with `residual`, added to another row."""
    groups, tiles = inputs // GROUP, -(-outputs // TILE)
    blocks, size = inputs // scheme.group, scheme.block_bytes

    def body(arguments: tuple[Buffer, ...], added: Buffer | None, y: Buffer, tokens: Expr) -> None:
        if isa.dot == "hvx":
            _hvx_body(isa, scheme, (inputs, outputs), arguments, added, y, tokens)
            return
        with T.parallel(tiles) as tile:

            def pass_over(first: Expr, count: int) -> None:
                acc = accumulate(isa, scheme, arguments, tile, first, count, blocks)
                for m in range(count):
                    _write(y, acc, m, first + m, tile, outputs, added)

            for_each_tile(isa, tokens, pass_over)

    if residual:

        @T.prim_func(s_tir=True)
        def kernel_add(
            values_: T.handle,
            scales_: T.handle,
            sums_: T.handle,
            packed: T.Buffer((tiles, blocks, size), "uint8", align=isa.weight_alignment),
            added_: T.handle,
            y_: T.handle,
        ):
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            n = T.int64()
            values = T.match_buffer(values_, (n, inputs), "int8")
            scales = T.match_buffer(scales_, (n, groups), "float32")
            sums = T.match_buffer(sums_, (n, groups), "int32")
            added = T.match_buffer(added_, (n, outputs), "float32")
            y = T.match_buffer(y_, (n, outputs), "float32")
            with T.sblock("root"):
                T.reads(
                    values[0:n, 0:inputs],
                    scales[0:n, 0:groups],
                    sums[0:n, 0:groups],
                    packed[0:tiles, 0:blocks, 0:size],
                    added[0:n, 0:outputs],
                )
                T.writes(y[0:n, 0:outputs])
                body((values, scales, sums, packed), added, y, n)

        return hvx.marked(kernel_add, isa)

    @T.prim_func(s_tir=True)
    def kernel(
        values_: T.handle,
        scales_: T.handle,
        sums_: T.handle,
        packed: T.Buffer((tiles, blocks, size), "uint8", align=isa.weight_alignment),
        y_: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        values = T.match_buffer(values_, (n, inputs), "int8")
        scales = T.match_buffer(scales_, (n, groups), "float32")
        sums = T.match_buffer(sums_, (n, groups), "int32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        with T.sblock("root"):
            T.reads(
                values[0:n, 0:inputs],
                scales[0:n, 0:groups],
                sums[0:n, 0:groups],
                packed[0:tiles, 0:blocks, 0:size],
            )
            T.writes(y[0:n, 0:outputs])
            body((values, scales, sums, packed), None, y, n)

    return hvx.marked(kernel, isa)


def _hvx_body(
    isa: InstructionSet,
    scheme: Scheme,
    shape: tuple[int, int],
    arguments: tuple[Buffer, ...],
    added: Buffer | None,
    y: Buffer,
    tokens: Expr,
) -> None:
    *rows, packed = arguments
    inputs, outputs = shape
    size = -(-outputs // TILE) * (inputs // scheme.group) * scheme.block_bytes
    flat = hvx.flat_bytes(packed, size)
    taken = hvx.Product(isa=isa, scheme=scheme, inputs=inputs, outputs=outputs, flat=flat)

    def put(t: Expr, row: Expr, total: Expr) -> None:
        store(y, total if added is None else added[t, row] + total, t, row)

    if taken.pairs:
        with T.parallel(taken.pairs) as p:
            for_each_tile(isa, tokens, lambda first, n: taken.pair(tuple(rows), p, first, n, put))
    if taken.odd:
        for_each_tile(isa, tokens, lambda first, n: taken.single(tuple(rows), first, n, put))


def linear_f16(isa: InstructionSet, inputs: int, outputs: int) -> Any:
    """`gem::linear_f16` for a packed weight `[outputs, inputs]`."""
    tiles = -(-outputs // TILE)
    # Sums over inputs are chains: several tiles side by side keep the multipliers busy.
    side = next(count for count in (4, 3, 2, 1) if tiles % count == 0)

    def body(x: Buffer, packed: Buffer, y: Buffer, tokens: Expr) -> None:
        with T.parallel(tiles // side) as block:

            def pass_over(first: Expr, count: int) -> None:
                acc = local((count * side, LANES), "float32")
                for row in range(count * side):
                    store(acc, splat(0.0), row, lanes(0))
                with T.serial(inputs) as k:
                    for s in range(side):
                        weight = T.cast(packed[block * side + s, k, lanes(0)], "float32x16")
                        for m in range(count):
                            row = m * side + s
                            total = fma(isa, splat(x[first + m, k]), weight, acc[row, lanes(0)])
                            store(acc, total, row, lanes(0))
                for m in range(count):
                    for s in range(side):
                        row = m * side + s
                        _write(y, acc, row, first + m, block * side + s, outputs, None)

            for_each_tile(isa, tokens, pass_over, largest=4)

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, packed: T.Buffer((tiles, inputs, TILE), "float16"), y_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, inputs), "float32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        with T.sblock("root"):
            T.reads(x[0:n, 0:inputs], packed[0:tiles, 0:inputs, 0:TILE])
            T.writes(y[0:n, 0:outputs])
            body(x, packed, y, n)

    return kernel


def for_each_tile(isa: InstructionSet, tokens: Expr, pass_over: Any, largest: int = 64) -> None:
    """Cut the tokens into tiles of the instruction set's sizes and call `pass_over(first, count)`.

    The last tile starts early rather than being smaller: its first tokens are computed twice, alike.
    """
    sizes = [size for size in isa.token_tiles if size <= largest]

    def cut(level: int) -> None:
        size = sizes[level]
        if size == 1:
            with T.serial(tokens) as t:
                pass_over(t, 1)
            return
        with T.If(tokens >= size):
            with T.Then(), T.serial((tokens + (size - 1)) // size) as m:
                pass_over(T.min(m * size, tokens - size), size)
            with T.Else():
                cut(level + 1)

    cut(0)


def accumulate(
    isa: InstructionSet,
    scheme: Scheme,
    arguments: tuple[Buffer, ...],
    tile: Expr,
    first: Expr,
    count: int,
    blocks: int,
) -> Buffer:
    """Products of `count` tokens with one tile of 16 rows: a local float32 buffer `[count, 16]`."""
    values, scales, sums, packed = arguments
    acc = local((count, LANES), "float32")
    for m in range(count):
        store(acc, splat(0.0), m, lanes(0))
    # Instructions, not memory, bound a single token's speed where a code has 2 or 3 bits.
    lean = count == 1 and scheme.bits < 4 and isa.dot == "vnni512"
    # A block has one or more groups of activations, each with a scale of its own.
    parts = scheme.group // GROUP
    totals = _totals(scales, sums, first, blocks * parts) if lean and scheme.has_minimum else None
    with T.serial(blocks) as g:
        if count == 1:
            # All lines of a block at once: without it each waits until it is used. Asking further
            # ahead is slower, since the processor's own prefetching then follows the wrong stream.
            for line in range(0, scheme.block_bytes, 64):
                prefetch(packed, tile, g, line)
        dots = local((count + lean, LANES), "int32")
        factors = local((2, LANES), "float32")
        codes = _codes(scheme, packed, tile, g, keep=count > 1, lean=lean)
        _load_factors(scheme, packed, tile, g, factors)
        for part, m in product(range(parts), range(count)):
            own, t = g * parts + part, first + m
            offset = _offset(isa, scheme)
            store(dots, T.broadcast(sums[t, own] * -offset if offset else 0, LANES), m, lanes(0))
            own_codes = codes[part * DOTS : (part + 1) * DOTS]
            _add_products(isa, scheme, own_codes, (values, t, own * GROUP), dots, m, lean=lean)
            scale = splat(scales[t, own])
            dot = T.cast(dots[m, lanes(0)], "float32x16")
            store(acc, fma(isa, dot, factors[0, lanes(0)] * scale, acc[m, lanes(0)]), m, lanes(0))
            if scheme.has_minimum:
                if totals is None:
                    total = splat(scales[t, own] * T.cast(sums[t, own], "float32"))
                else:
                    total = splat(totals[own])
                store(acc, fma(isa, factors[1, lanes(0)], total, acc[m, lanes(0)]), m, lanes(0))
    return acc


def _load_factors(scheme: Scheme, packed: Buffer, tile: Expr, g: Expr, factors: Buffer) -> None:
    """Write the scales and minima of a block to `factors` `[2, 16]`."""
    first, second = scheme.code_bytes, scheme.code_bytes + scheme.factor_bytes
    if scheme.byte_factors:
        store(factors, byte_scales(packed[tile, g, lanes(first)]), 0, lanes(0))
        zeros = packed[tile, g, lanes(second)]
        store(factors, byte_minima(scheme, zeros, factors[0, lanes(0)]), 1, lanes(0))
        return
    store(factors, halves(packed, tile, g, first), 0, lanes(0))
    if scheme.has_minimum:
        store(factors, halves(packed, tile, g, second), 1, lanes(0))


def _offset(isa: InstructionSet, scheme: Scheme) -> int:
    """What is still to be taken off the codes that the products take."""
    if scheme.bits == 8 and (isa.signed_codes or isa.dot in ("avx2", "neon")):
        return scheme.offset - 128  # they take them as signed
    return scheme.offset


def _add_products(
    isa: InstructionSet,
    scheme: Scheme,
    codes: list[CodeLoader],
    at: tuple[Buffer, Expr, Expr],
    dots: Buffer,
    row: int,
    *,
    lean: bool,
) -> None:
    """Add the products of 32 codes and the activations from `at` on to `dots[row, 0:16]`."""
    values, t, column = at
    if isa.dot == "neon":
        fours = [four_values(values, t, column + 4 * j) for j in range(len(codes))]
        neon.add_products(codes, fours, dots, row, scheme.bits)
        return
    if lean:
        store(dots, T.broadcast(0, LANES), row + 1, lanes(0))
    for j, loader in enumerate(codes):
        four = four_values(values, t, column + 4 * j)
        place = row + 1 if lean and _may_stay(scheme, j) else row
        dot_accumulate(isa, dots, place, loader, four, scheme.bits)
    if lean:
        lowered = dots[row + 1, lanes(0)] >> T.broadcast(scheme.bits, LANES)
        store(dots, dots[row, lanes(0)] + lowered, row, lanes(0))


def _totals(scales: Buffer, sums: Buffer, t: Expr, groups: int) -> Buffer:
    """What the minima of each group are multiplied with, for token `t`: made 16 at a time."""
    found = local((groups,), "float32")
    width = min(groups, LANES)
    # The last vector starts early rather than being shorter.
    for start in [*range(0, groups - width, width), groups - width]:
        at = lanes(start, width)
        store(found, scales[t, at] * T.cast(sums[t, at], f"float32x{width}"), at)
    return found


def _may_stay(scheme: Scheme, j: int) -> bool:
    """Whether the codes of dot product `j` need not be shifted all the way down.

    Those that lie as many bits above others as a code has may stay there: the sum of their products
    is then shifted. That is exact, and takes one shift for several.
    """
    parts = scheme.code_parts(j)
    return len(parts) == 1 and parts[0].shift // scheme.bits % 2 == 1


def _codes(
    scheme: Scheme, packed: Buffer, tile: Expr, g: Expr, *, keep: bool, lean: bool
) -> list[CodeLoader]:
    """Loaders of the 64 codes of each of the block's dot products.

    `keep` unpacks them once into local storage, which pays when several tokens share them. `lean` leaves
    codes that may stay above others there.
    """
    dots = scheme.group // 4

    def stored(j: int) -> CodeLoader:
        parts = scheme.code_parts(j)
        if lean and _may_stay(scheme, j):
            parts = (attrs.evolve(parts[0], low=scheme.bits),)

        def load(start: int, size: int) -> Expr:
            return unpack_codes(
                parts, lambda first: packed[tile, g, lanes(first + start, size)], size
            )

        return load

    if scheme.bits == 8 or not keep:
        return [stored(j) for j in range(dots)]
    unpacked = local((dots, 64), "uint8")
    for j in range(dots):
        store(unpacked, stored(j)(0, 64), j, lanes(0, 64))

    def kept(j: int) -> CodeLoader:
        return lambda start, size: unpacked[j, lanes(start, size)]

    return [kept(j) for j in range(dots)]


def _write(
    y: Buffer, acc: Buffer, row: int, t: Expr, tile: Expr, outputs: int, added: Buffer | None
) -> None:
    """Store one row of sums; the last tile may have fewer than 16 outputs."""

    def whole() -> None:
        at = lanes(tile * TILE)
        total = acc[row, lanes(0)] if added is None else added[t, at] + acc[row, lanes(0)]
        store(y, total, t, at)

    def partial() -> None:
        for lane in range(outputs % TILE):
            at = tile * TILE + lane
            total = acc[row, lane] if added is None else added[t, at] + acc[row, lane]
            store(y, total, t, at)

    if outputs % TILE == 0:
        whole()
        return
    with T.If(tile < outputs // TILE):
        with T.Then():
            whole()
        with T.Else():
            partial()
