"""Rows of a packed embedding."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels import hvx
from gemcore.compiler.kernels.activations import for_each_token
from gemcore.compiler.kernels.dense import vector
from gemcore.compiler.kernels.hvx_layout import place
from gemcore.compiler.kernels.vector import (
    Buffer,
    Expr,
    byte_minima,
    byte_scales,
    fma,
    lanes,
    splat,
    store,
    unpack_codes,
)
from gemcore.schemes import TILE, Scheme


def embedding(isa: InstructionSet, scheme: Scheme, rows: int, hidden: int) -> Any:
    """`gem::embedding` for a packed embedding `[rows, hidden]`."""
    tiles = -(-rows // TILE)
    blocks, size = hidden // scheme.group, scheme.block_bytes
    shape = (tiles, blocks, size) if scheme.grouped else (tiles, hidden, TILE)
    dtype = "uint8" if scheme.grouped else "float16"

    def grouped(packed: Buffer, y: Buffer, t: Expr, tile: Expr, lane: Expr) -> None:
        flat = hvx.flat_bytes(packed, tiles * blocks * size) if isa.dot == "hvx" else None

        def read(g: Expr, start: int, within: Expr, count: int = 1) -> Expr:
            """`count` bytes of a block: of the line or the vector of factors that begins at `start`."""
            if flat is None:
                return packed[tile, g, vector(start + within, count)]
            at = place(scheme, (tiles, blocks), tile, g, start)
            return flat[vector(at + within, count)]

        def half(g: Expr, start: int) -> Expr:
            two = T.reinterpret(read(g, start, 2 * lane, 2), dtype="float16")
            return T.cast(two, "float32")

        def factors(g: Expr) -> tuple[Expr, Expr]:
            first, second = scheme.code_bytes, scheme.code_bytes + scheme.factor_bytes
            if scheme.byte_factors:
                scale = byte_scales(read(g, first, lane), 1)
                return scale, byte_minima(scheme, read(g, second, lane), scale, 1)
            return half(g, first), half(g, second) if scheme.has_minimum else None

        with T.serial(blocks) as g:
            own_scale, own_minimum = factors(g)
            scale = splat(own_scale, 4)

            def four(first: int) -> Expr:
                return read(g, first, 4 * lane, 4)

            for dot in range(scheme.group // 4):
                codes = unpack_codes(scheme.code_parts(dot), four, 4)
                value = T.cast(codes, "float32x4") - splat(float(scheme.offset), 4)
                if scheme.has_minimum:
                    value = fma(isa, value, scale, splat(own_minimum, 4), 4)
                else:
                    value = value * scale
                store(y, value, t, lanes(g * scheme.group + 4 * dot, 4))

    def plain(packed: Buffer, y: Buffer, t: Expr, tile: Expr, lane: Expr) -> None:
        with T.serial(hidden) as k:
            store(y, T.cast(packed[tile, k, lane], "float32"), t, k)

    def body(ids: Buffer, packed: Buffer, y: Buffer, tokens: Expr) -> None:
        def token(t: Expr) -> None:
            copy = grouped if scheme.grouped else plain
            copy(packed, y, t, ids[t] // TILE, ids[t] % TILE)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(ids_: T.handle, packed: T.Buffer(shape, dtype), y_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        ids = T.match_buffer(ids_, (n,), "int32")
        y = T.match_buffer(y_, (n, hidden), "float32")
        with T.sblock("root"):
            T.reads(ids[0:n], packed[0 : shape[0], 0 : shape[1], 0 : shape[2]])
            T.writes(y[0:n, 0:hidden])
            body(ids, packed, y, n)

    return kernel
