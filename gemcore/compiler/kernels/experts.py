"""Routed low-rank experts: cost follows the number that work.

Deltas are added to the rows where they lie, so a token without an expert costs the look at its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.dense import Rows, floats, grouped_product, splat_to, vector
from gemcore.compiler.kernels.vector import LANES, Buffer, Expr, fma, local, store
from gemcore.schemes import GROUP

BLOCK = 16
"""Tokens that one task takes, and among which those of one expert are put together."""

TOGETHER = 4
"""Tokens of one expert that share its numbers once they are read and made float32."""


@attrs.frozen(kw_only=True)
class _Deltas:
    """The deltas of one weight.

    Attributes:
        isa: the instructions.
        experts, inputs, rank, outputs: their shape.
    """

    isa: InstructionSet
    experts: int
    inputs: int
    rank: int
    outputs: int

    def add(
        self, rows: Rows, y: Buffer, weights: Buffer, deltas: tuple[Buffer, Buffer], count: Expr
    ) -> None:
        """Add to each of `count` rows of `y` what the experts of its weights give."""
        block = partial(self._block, rows, y, weights, deltas, count)
        with T.If(count > BLOCK):
            with T.Then(), T.parallel((count + (BLOCK - 1)) // BLOCK) as b:
                block(b)
            with T.Else():
                block(T.int64(0))

    def _block(
        self,
        rows: Rows,
        y: Buffer,
        weights: Buffer,
        deltas: tuple[Buffer, Buffer],
        count: Expr,
        b: Expr,
    ) -> None:
        with T.serial(self.experts) as e:
            found, number = local((BLOCK,), "int64"), local((1,), "int64")
            store(number, T.int64(0), 0)
            size = T.min(T.int64(BLOCK), count - b * BLOCK)
            with T.serial(size) as i, T.If(weights[b * BLOCK + i, e] != T.float32(0)), T.Then():
                store(found, b * BLOCK + i, number[0])
                store(number, number[0] + 1, 0)
            if self.isa.side_by_side(TOGETHER) == 1:
                with T.serial(number[0]) as m:
                    self._expert(rows, y, weights, deltas, e, [found[m]])
                return
            fours = number[0] // TOGETHER
            with T.serial(fours) as m:
                chosen = [found[TOGETHER * m + i] for i in range(TOGETHER)]
                self._expert(rows, y, weights, deltas, e, chosen)
            with T.serial(number[0] - fours * TOGETHER) as m:
                self._expert(rows, y, weights, deltas, e, [found[fours * TOGETHER + m]])

    def _expert(
        self,
        rows: Rows,
        y: Buffer,
        weights: Buffer,
        deltas: tuple[Buffer, Buffer],
        e: Expr,
        tokens: Sequence[Expr],
    ) -> None:
        """Add expert `e` to some rows."""
        down, up = deltas
        narrow = math.gcd(self.rank, LANES)
        inner = grouped_product(
            self.isa, rows, tokens, self.inputs, self.rank, lambda k, at: down[e, k, at]
        )
        for m, t in enumerate(tokens):
            for c in range(self.rank // narrow):
                at = vector(c * narrow, narrow)
                store(inner, inner[m, at] * splat_to(weights[t, e], narrow), m, at)
        wide = math.gcd(self.outputs, LANES)
        vectors = self.outputs // wide
        # Several vectors side by side: each is a chain over the rank.
        most = self.isa.side_by_side(8)
        side = next(n for n in (4, 3, 2, 1) if vectors % n == 0 and n * len(tokens) <= most)
        with T.serial(vectors // side) as c:
            acc = local((len(tokens), side, wide), "float32")
            own = vector(0, wide)
            for m, t in enumerate(tokens):
                for s in range(side):
                    store(acc, y[t, vector((c * side + s) * wide, wide)], m, s, own)
            for r in range(self.rank):
                for s in range(side):
                    factor = up[e, r, vector((c * side + s) * wide, wide)]
                    factor = T.cast(factor, floats(wide))
                    for m in range(len(tokens)):
                        total = fma(
                            self.isa, splat_to(inner[m, r], wide), factor, acc[m, s, own], wide
                        )
                        store(acc, total, m, s, own)
            for m, t in enumerate(tokens):
                for s in range(side):
                    store(y, acc[m, s, own], t, vector((c * side + s) * wide, wide))


def routed_lora(
    isa: InstructionSet, experts: int, inputs: int, rank: int, outputs: int, dtype: str = "float16"
) -> Any:
    """`gem::routed_lora` for `experts` deltas of `rank` on a weight `[outputs, inputs]`; `y` in place."""
    shape = _Deltas(isa=isa, experts=experts, inputs=inputs, rank=rank, outputs=outputs)

    def body(x: Buffer, y: Buffer, weights: Buffer, down: Buffer, up: Buffer, n: Expr) -> None:
        shape.add(Rows(lambda t, at: x[t, at]), y, weights, (down, up), n)

    @T.prim_func(s_tir=True)
    def kernel(
        x_: T.handle,
        y_: T.handle,
        weights_: T.handle,
        down: T.Buffer((experts, inputs, rank), dtype),
        up: T.Buffer((experts, rank, outputs), dtype),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, inputs), "float32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        weights = T.match_buffer(weights_, (n, experts), "float32")
        with T.sblock("root"):
            T.reads(
                x[0:n, 0:inputs],
                y[0:n, 0:outputs],
                weights[0:n, 0:experts],
                down[0:experts, 0:inputs, 0:rank],
                up[0:experts, 0:rank, 0:outputs],
            )
            T.writes(y[0:n, 0:outputs])
            body(x, y, weights, down, up, n)

    return kernel


def routed_lora_q8(
    isa: InstructionSet, experts: int, inputs: int, rank: int, outputs: int, dtype: str = "float16"
) -> Any:
    """`gem::routed_lora_q8`, likewise; `inputs` is a multiple of 32."""
    shape = _Deltas(isa=isa, experts=experts, inputs=inputs, rank=rank, outputs=outputs)
    groups = inputs // GROUP

    def body(
        rounded: tuple[Buffer, Buffer],
        y: Buffer,
        weights: Buffer,
        deltas: tuple[Buffer, Buffer],
        n: Expr,
    ) -> None:
        values, scales = rounded
        rows = Rows(lambda t, at: values[t, at], lambda t, g: scales[t, g])
        shape.add(rows, y, weights, deltas, n)

    @T.prim_func(s_tir=True)
    def kernel(
        values_: T.handle,
        scales_: T.handle,
        y_: T.handle,
        weights_: T.handle,
        down: T.Buffer((experts, inputs, rank), dtype),
        up: T.Buffer((experts, rank, outputs), dtype),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        values = T.match_buffer(values_, (n, inputs), "int8")
        scales = T.match_buffer(scales_, (n, groups), "float32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        weights = T.match_buffer(weights_, (n, experts), "float32")
        with T.sblock("root"):
            T.reads(
                values[0:n, 0:inputs],
                scales[0:n, 0:groups],
                y[0:n, 0:outputs],
                weights[0:n, 0:experts],
                down[0:experts, 0:inputs, 0:rank],
                up[0:experts, 0:rank, 0:outputs],
            )
            T.writes(y[0:n, 0:outputs])
            body((values, scales), y, weights, (down, up), n)

    return kernel
