"""The first half of a feed-forward layer in one kernel: product, SwiGLU, rounding to int8."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.activations import quantize_group, quantize_row, swiglu
from gemcore.compiler.kernels.linear import accumulate, for_each_tile
from gemcore.compiler.kernels.vector import LANES, Buffer, Expr, lanes, store
from gemcore.schemes import GROUP, TILE, Scheme


def gate_up_quantize(isa: InstructionSet, scheme: Scheme, inputs: int, inner: int) -> Any:
    """`gem::quantize` of `gem::silu_mul` of `gem::qlinear`, for a packed weight `[2 * inner, inputs]`.

    `inner` must be a multiple of 32: one task makes 32 channels, so it can round them, and the wide rows
    between product and rounding are never written. A single token, whose rows stay in the processor's
    cache anyway, reads its weights in order instead.
    """
    groups, tiles = inputs // GROUP, inner // TILE
    blocks, size = inputs // scheme.group, scheme.block_bytes

    def body(arguments: tuple[Buffer, ...], outputs: tuple[Buffer, ...], tokens: Expr) -> None:
        with T.If(tokens == 1):
            with T.Then():
                one_token(arguments, outputs)
            with T.Else(), T.parallel(inner // GROUP) as g:
                several_tokens(arguments, outputs, g, tokens)

    def one_token(arguments: tuple[Buffer, ...], outputs: tuple[Buffer, ...]) -> None:
        wide = T.alloc_buffer((2 * inner,), "float32")
        with T.parallel(2 * tiles) as tile:
            acc = accumulate(isa, scheme, arguments, tile, 0, 1, blocks)
            store(wide, acc[0, lanes(0)], lanes(tile * TILE))

        def row(column: Expr) -> Expr:
            return swiglu(isa, wide[lanes(column)], wide[lanes(inner + column)])

        quantize_row(isa, 0, inner, row, outputs)

    def several_tokens(
        arguments: tuple[Buffer, ...], outputs: tuple[Buffer, ...], g: Expr, tokens: Expr
    ) -> None:
        # Gate, gate, up, up: a tile's weights stay in the nearest cache for all tokens.
        wide = T.alloc_buffer((4, tokens, LANES), "float32")
        for place, tile in enumerate((2 * g, 2 * g + 1, tiles + 2 * g, tiles + 2 * g + 1)):

            def pass_over(first: Expr, count: int, place: int = place, tile: Expr = tile) -> None:
                acc = accumulate(isa, scheme, arguments, tile, first, count, blocks)
                for m in range(count):
                    store(wide, acc[m, lanes(0)], place, first + m, lanes(0))

            for_each_tile(isa, tokens, pass_over)
        with T.serial(tokens) as t:

            def row(column: Expr) -> Expr:
                half = (column % GROUP) // LANES
                return swiglu(isa, wide[half, t, lanes(0)], wide[2 + half, t, lanes(0)])

            quantize_group(isa, t, g, row, outputs)

    @T.prim_func(s_tir=True)
    def kernel(
        values_: T.handle,
        scales_: T.handle,
        sums_: T.handle,
        packed: T.Buffer((2 * tiles, blocks, size), "uint8"),
        inner_values_: T.handle,
        inner_scales_: T.handle,
        inner_sums_: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        values = T.match_buffer(values_, (n, inputs), "int8")
        scales = T.match_buffer(scales_, (n, groups), "float32")
        sums = T.match_buffer(sums_, (n, groups), "int32")
        inner_values = T.match_buffer(inner_values_, (n, inner), "int8")
        inner_scales = T.match_buffer(inner_scales_, (n, inner // GROUP), "float32")
        inner_sums = T.match_buffer(inner_sums_, (n, inner // GROUP), "int32")
        with T.sblock("root"):
            T.reads(
                values[0:n, 0:inputs],
                scales[0:n, 0:groups],
                sums[0:n, 0:groups],
                packed[0 : 2 * tiles, 0:blocks, 0:size],
            )
            T.writes(
                inner_values[0:n, 0:inner],
                inner_scales[0:n, 0 : inner // GROUP],
                inner_sums[0:n, 0 : inner // GROUP],
            )
            body((values, scales, sums, packed), (inner_values, inner_scales, inner_sums), n)

    return kernel
