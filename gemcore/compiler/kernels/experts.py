"""Routed low-rank experts: cost follows the number that work."""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.compiler.kernels.activations import for_each_token
from gemcore.compiler.kernels.vector import LANES, Buffer, Expr, fma, lanes, local, splat, store


def routed_lora(isa: InstructionSet, experts: int, inputs: int, rank: int, outputs: int) -> Any:
    """`gem::routed_lora` for `experts` deltas of `rank` on a weight `[outputs, inputs]`."""
    narrow = math.gcd(rank, LANES)
    wide = math.gcd(outputs, LANES)

    def expert(arguments: tuple[Buffer, ...], out: Buffer, t: Expr, e: Expr) -> None:
        x, weights, down, up = arguments
        inner = local((rank,), "float32")
        for c in range(rank // narrow):
            store(inner, splat(0.0, narrow), lanes(c * narrow, narrow))
        with T.serial(inputs) as k:
            for c in range(rank // narrow):
                at = lanes(c * narrow, narrow)
                term = fma(isa, splat(x[t, k], narrow), down[e, k, at], inner[at], narrow)
                store(inner, term, at)
        for c in range(rank // narrow):
            at = lanes(c * narrow, narrow)
            store(inner, inner[at] * splat(weights[t, e], narrow), at)
        with T.serial(outputs // wide) as c:
            at = lanes(c * wide, wide)
            acc = local((wide,), "float32")
            store(acc, out[t, at], lanes(0, wide))
            for r in range(rank):
                term = fma(isa, splat(inner[r], wide), up[e, r, at], acc[lanes(0, wide)], wide)
                store(acc, term, lanes(0, wide))
            store(out, acc[lanes(0, wide)], t, at)

    def body(y: Buffer, arguments: tuple[Buffer, ...], out: Buffer, tokens: Expr) -> None:
        weights = arguments[1]

        def token(t: Expr) -> None:
            with T.serial(outputs // wide) as c:
                at = lanes(c * wide, wide)
                store(out, y[t, at], t, at)
            with T.serial(experts) as e, T.If(weights[t, e] != T.float32(0)), T.Then():
                expert(arguments, out, t, e)

        for_each_token(tokens, token)

    @T.prim_func(s_tir=True)
    def kernel(
        x_: T.handle,
        y_: T.handle,
        weights_: T.handle,
        down: T.Buffer((experts, inputs, rank), "float32"),
        up: T.Buffer((experts, rank, outputs), "float32"),
        out_: T.handle,
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_, (n, inputs), "float32")
        y = T.match_buffer(y_, (n, outputs), "float32")
        weights = T.match_buffer(weights_, (n, experts), "float32")
        out = T.match_buffer(out_, (n, outputs), "float32")
        with T.sblock("root"):
            T.reads(
                x[0:n, 0:inputs],
                y[0:n, 0:outputs],
                weights[0:n, 0:experts],
                down[0:experts, 0:inputs, 0:rank],
                up[0:experts, 0:rank, 0:outputs],
            )
            T.writes(out[0:n, 0:outputs])
            body(y, (x, weights, down, up), out, n)

    return kernel
