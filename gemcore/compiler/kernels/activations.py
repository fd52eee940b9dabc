"""Kernels over activations: norm, SwiGLU, and rounding to int8, alone or joined."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.vector import (
    LANES,
    ROUNDER,
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
from gemcore.models.reference import SMALLEST_GROUP
from gemcore.schemes import GROUP

PARALLEL_FROM = 16
"""Tokens from which it pays to share the rows among threads."""

RowVector = Callable[[Expr], Expr]
"""`column -> float32x16` of the row at hand."""


def for_each_token(tokens: Expr, body: Callable[[Expr], None]) -> None:
    """Run `body` for every token, on all threads where there are enough."""
    with T.If(tokens >= PARALLEL_FROM):
        with T.Then(), T.parallel(tokens) as t:
            body(t)
        with T.Else(), T.serial(tokens) as t:
            body(t)


def quantize_row(
    isa: InstructionSet,
    t: Expr,
    columns: int,
    row: RowVector,
    outputs: tuple[Buffer, ...],
    group: int = GROUP,
) -> None:
    """Round one row to int8 in groups: values, scales and sums; see `gem::quantize`."""
    with T.serial(columns // group) as g:
        quantize_group(isa, t, g, row, outputs, group)


def quantize_group(
    isa: InstructionSet,
    t: Expr,
    g: Expr,
    row: RowVector,
    outputs: tuple[Buffer, ...],
    group: int = GROUP,
) -> None:
    """Round one group of a row; see `quantize_row`."""
    values, scales, sums = outputs
    parts = range(group // LANES)
    x = local((len(parts), LANES), "float32")
    scalar = local((2,), "float32")
    total = local((LANES,), "int32")
    for part in parts:
        store(x, row(g * group + part * LANES), part, lanes(0))
    magnitudes = [intrinsic("llvm.fabs", "float32x16", x[part, lanes(0)]) for part in parts]
    largest = intrinsic("llvm.vector.reduce.fmax", "float32", reduce(T.max, magnitudes))
    store(scalar, largest, 0)
    inverse = T.float32(127) / scalar[0]
    usable = scalar[0] >= T.float32(SMALLEST_GROUP)
    store(scalar, T.Select(usable, inverse, T.float32(0)), 1)
    store(scales, scalar[0] / T.float32(127), t, g)
    store(total, T.broadcast(0, LANES), lanes(0))
    for part in parts:
        rounded = fma(isa, x[part, lanes(0)], splat(scalar[1]), splat(ROUNDER))
        integers = T.cast(rounded - splat(ROUNDER), "int32x16")
        store(total, total[lanes(0)] + integers, lanes(0))
        store(values, T.cast(integers, "int8x16"), t, lanes(g * group + part * LANES))
    store(sums, intrinsic("llvm.vector.reduce.add", "int32", total[lanes(0)]), t, g)


def row_scale(x: Buffer, t: Expr, columns: int, epsilon: float) -> Expr:
    """One over the root mean square of row `t`, summed in float64: a float32 scalar."""
    squares = local((LANES,), "float64")
    store(squares, T.broadcast(T.float64(0), LANES), lanes(0))
    with T.serial(columns // LANES) as c:
        wide = T.cast(x[t, lanes(c * LANES)], "float64x16")
        store(squares, squares[lanes(0)] + wide * wide, lanes(0))
    total = intrinsic("llvm.vector.reduce.fadd", "float64", T.float64(0), squares[lanes(0)])
    scale = local((1,), "float32")
    mean = total / T.float64(columns)
    store(scale, T.cast(T.float64(1) / T.sqrt(mean + T.float64(epsilon)), "float32"), 0)
    return scale[0]


def rms_norm(isa: InstructionSet, columns: int, epsilon: float) -> Any:
    """`gem::rms_norm` for rows of `columns` channels."""

    def body(x: Buffer, gain: Buffer, y: Buffer, tokens: Expr) -> None:
        def token(t: Expr) -> None:
            scale = row_scale(x, t, columns, epsilon)
            with T.serial(columns // LANES) as c:
                at = lanes(c * LANES)
                store(y, x[t, at] * splat(scale) * gain[at], t, at)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, gain: T.Buffer((columns,), "float32"), y_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, columns), "float32")
        y = T.match_buffer(y_, (n, columns), "float32")
        with T.sblock("root"):
            T.reads(x[0:n, 0:columns], gain[0:columns])
            T.writes(y[0:n, 0:columns])
            body(x, gain, y, n)

    return kernel


def rms_norm_quantize(isa: InstructionSet, columns: int, epsilon: float) -> Any:
    """`gem::quantize` of `gem::rms_norm`, without writing the rows between."""
    groups = columns // GROUP

    def body(x: Buffer, gain: Buffer, outputs: tuple[Buffer, ...], tokens: Expr) -> None:
        def token(t: Expr) -> None:
            scale = row_scale(x, t, columns, epsilon)

            def row(column: Expr) -> Expr:
                return x[t, lanes(column)] * splat(scale) * gain[lanes(column)]

            quantize_row(isa, t, columns, row, outputs)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(
        x_: T.handle,
        gain: T.Buffer((columns,), "float32"),
        values_: T.handle,
        scales_: T.handle,
        sums_: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, columns), "float32")
        values = T.match_buffer(values_, (n, columns), "int8")
        scales = T.match_buffer(scales_, (n, groups), "float32")
        sums = T.match_buffer(sums_, (n, groups), "int32")
        with T.sblock("root"):
            T.reads(x[0:n, 0:columns], gain[0:columns])
            T.writes(values[0:n, 0:columns], scales[0:n, 0:groups], sums[0:n, 0:groups])
            body(x, gain, (values, scales, sums), n)

    return kernel


def quantize(isa: InstructionSet, columns: int) -> Any:
    """`gem::quantize` for rows of `columns` channels."""
    return _quantize_kernel(isa, columns, columns, lambda x, t, column: x[t, lanes(column)])


def silu_mul_quantize(isa: InstructionSet, columns: int) -> Any:
    """`gem::quantize` of `gem::silu_mul`, without writing the rows between."""
    return _quantize_kernel(isa, 2 * columns, columns, _silu_mul(isa, columns))


def silu_mul(isa: InstructionSet, columns: int) -> Any:
    """`gem::silu_mul` for `columns` output channels."""
    middle = _silu_mul(isa, columns)

    def body(x: Buffer, y: Buffer, tokens: Expr) -> None:
        def token(t: Expr) -> None:
            with T.serial(columns // LANES) as c:
                store(y, middle(x, t, c * LANES), t, lanes(c * LANES))

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, y_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, 2 * columns), "float32")
        y = T.match_buffer(y_, (n, columns), "float32")
        with T.sblock("root"):
            T.reads(x[0:n, 0 : 2 * columns])
            T.writes(y[0:n, 0:columns])
            body(x, y, n)

    return kernel


def _silu_mul(isa: InstructionSet, columns: int) -> Callable[[Buffer, Expr, Expr], Expr]:
    def middle(x: Buffer, t: Expr, column: Expr) -> Expr:
        return swiglu(isa, x[t, lanes(column)], x[t, lanes(columns + column)])

    return middle


def swiglu(isa: InstructionSet, gate: Expr, up: Expr) -> Expr:
    """`silu(gate) * up` of 16 channels."""
    scratch = local((3, LANES), "float32")
    denominator = splat(1.0) + exp(isa, gate * splat(-1.0), scratch)
    return gate / denominator * up


def _quantize_kernel(
    isa: InstructionSet, inputs: int, columns: int, middle: Callable[[Buffer, Expr, Expr], Expr]
) -> Any:
    groups = columns // GROUP

    def body(x: Buffer, outputs: tuple[Buffer, ...], tokens: Expr) -> None:
        def token(t: Expr) -> None:
            quantize_row(isa, t, columns, lambda column: middle(x, t, column), outputs)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, values_: T.handle, scales_: T.handle, sums_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, inputs), "float32")
        values = T.match_buffer(values_, (n, columns), "int8")
        scales = T.match_buffer(scales_, (n, groups), "float32")
        sums = T.match_buffer(sums_, (n, groups), "int32")
        with T.sblock("root"):
            T.reads(x[0:n, 0:inputs])
            T.writes(values[0:n, 0:columns], scales[0:n, 0:groups], sums[0:n, 0:groups])
            body(x, (values, scales, sums), n)

    return kernel
