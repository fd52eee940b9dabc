"""Products with small weights that are not packed: of experts, and of routers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.activations import for_each_token
from gemcore.compiler.kernels.vector import LANES, Buffer, Expr, fma, lanes, local, splat, store
from gemcore.schemes import GROUP

CHAINS = 4
"""Sums that are worked on at the same time: one `fma` takes as long as four can begin in."""


@attrs.frozen
class Rows:
    """The activations of a product.

    Attributes:
        values: `(token, index) -> activations`, of any number type; the index may be a vector.
        scales: `(token, group) -> float32`, of each group of 32 inputs; None where they are all 1.
    """

    values: Callable[[Expr, Expr], Expr]
    scales: Callable[[Expr, Expr], Expr] | None = None


def grouped_product(
    isa: InstructionSet,
    rows: Rows,
    tokens: Sequence[Expr],
    inputs: int,
    outputs: int,
    weight: Callable[[Expr, Expr], Expr],
) -> Buffer:
    """`gemcore.models.reference.grouped_matmul` of some tokens: a local float32 `[tokens, outputs]`.

    `weight` gives the numbers of an input and of the outputs at a vector of indices.
    """
    count, width = len(tokens), math.gcd(outputs, LANES)
    vectors = [vector(c * width, width) for c in range(outputs // width)]
    total = local((count, outputs), "float32")
    for m in range(count):
        for at in vectors:
            store(total, splat_to(0.0, width), m, at)

    def groups(first: Expr, side: int, size: int) -> None:
        """Groups `first` to `first + side - 1`, of `size` inputs each, at the same time."""
        x = local((count, side, size), "float32")
        parts = local((count, side, outputs), "float32")
        for m, t in enumerate(tokens):
            for s in range(side):
                _asfloats(x, rows, m, s, t, (first + s) * GROUP, size)
                for at in vectors:
                    store(parts, splat_to(0.0, width), m, s, at)
        with T.serial(size) as k:
            for s in range(side):
                for at in vectors:
                    factor = T.cast(weight((first + s) * GROUP + k, at), floats(width))
                    for m in range(count):
                        value = splat_to(x[m, s, k], width)
                        store(parts, fma(isa, value, factor, parts[m, s, at], width), m, s, at)
        for m, t in enumerate(tokens):
            for s in range(side):
                for at in vectors:
                    part = parts[m, s, at]
                    if rows.scales is None:
                        added = total[m, at] + part
                    else:
                        scale = splat_to(rows.scales(t, first + s), width)
                        added = fma(isa, part, scale, total[m, at], width)
                    store(total, added, m, at)

    whole, rest = divmod(inputs, GROUP)
    most = max(1, isa.side_by_side(CHAINS) // (count * len(vectors)))
    side = next(n for n in range(most, 0, -1) if whole % n == 0)
    if whole:
        with T.serial(whole // side) as g:
            groups(g * side, side, GROUP)
    if rest:
        groups(whole, 1, rest)
    return total


def _asfloats(x: Buffer, rows: Rows, m: int, s: int, t: Expr, start: Expr, size: int) -> None:
    """Write one group of activations to `x[m, s]` as float32."""
    width = math.gcd(size, LANES)
    for c in range(size // width):
        values = rows.values(t, vector(start + c * width, width))
        store(x, T.cast(values, floats(width)), m, s, vector(c * width, width))


def linear_f32(isa: InstructionSet, inputs: int, outputs: int) -> Any:
    """`gem::linear_f32` for a weight `[inputs, outputs]`."""
    # More than this many sums of one token do not fit the registers.
    block = next(n for n in range(min(outputs, 4 * LANES), 0, -1) if outputs % n == 0)
    width = math.gcd(block, LANES)

    def body(x: Buffer, weight: Buffer, y: Buffer, tokens: Expr) -> None:
        rows = Rows(lambda t, at: x[t, at])

        def token(t: Expr) -> None:
            with T.serial(outputs // block) as b:

                def column(k: Expr, at: Expr) -> Expr:
                    return weight[k, b * block + at]

                sums = grouped_product(isa, rows, [t], inputs, block, column)
                for c in range(block // width):
                    found = sums[0, vector(c * width, width)]
                    store(y, found, t, vector(b * block + c * width, width))

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, weight: T.Buffer((inputs, outputs), "float32"), y_: T.handle):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, inputs), "float32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        with T.sblock("root"):
            T.reads(x[0:n, 0:inputs], weight[0:inputs, 0:outputs])
            T.writes(y[0:n, 0:outputs])
            body(x, weight, y, n)

    return kernel


def vector(start: Expr, count: int) -> Expr:
    """The index of `count` consecutive elements, of one as well."""
    return start if count == 1 else lanes(start, count)


def splat_to(value: Expr, count: int) -> Expr:
    """`count` copies of a float32, one as well."""
    if count > 1:
        return splat(value, count)
    return T.float32(value) if isinstance(value, float) else value


def floats(count: int) -> str:
    """The type of `count` float32."""
    return "float32" if count == 1 else f"float32x{count}"
