"""Products of codes and activations with NEON's 8-bit multiplications, for processors without `sdot`.

`smull` and `smlal` multiply eight pairs of int8 and add the products to eight int16, which hold several of
them: codes of up to 5 bits so many that sums are widened only once for all 32 values of a group. Nothing
overflows, so the sums are those of every other instruction set.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from gemcore.compiler.kernels.vector import (
    Buffer,
    CodeLoader,
    Expr,
    intrinsic,
    lanes,
    local,
    store,
)

_QUARTERS = range(4)  # of 16 rows: one vector has the codes of four rows
_HALVES = range(2)
_HIGHEST_ACTIVATION, _HIGHEST_SUM = 127, 2**15 - 1


def steps_between_widening(bits: int) -> int:
    """How many products of codes of so many bits an int16 holds; signed codes where there are 8 bits.

    >>> [steps_between_widening(bits) for bits in (4, 5, 6, 8)]
    [17, 8, 4, 2]
    """
    highest = 128 if bits == 8 else 2**bits - 1
    return _HIGHEST_SUM // (highest * _HIGHEST_ACTIVATION)


def add_products(
    codes: list[CodeLoader], fours: list[Expr], sums: Buffer, row: Expr, bits: int
) -> None:
    """Add the products of 16 rows with four activations each step to int32 `sums[row, 0:16]`.

    Args:
        codes: for each step the loader of 64 unsigned codes, 16 rows x 4.
        fours: for each step four activations, as one int32.
        sums: local int32 buffer `[rows, 16]`.
        row: row of `sums`.
        bits: bits of a code; those of 8 are taken as signed, 128 less.
    """
    most = steps_between_widening(bits)
    wide = local((8, 4), "int32")
    for first in range(0, len(codes), most):
        few = slice(first, first + most)
        narrow = _few_products(codes[few], fours[few], bits)
        for place in range(8):
            name, at = "llvm.aarch64.neon.saddlp.v4i32.v8i16", lanes(0, 4)
            pairs = intrinsic(name, "int32x4", narrow[place, lanes(0, 8)])
            store(wide, wide[place, at] + pairs if first else pairs, place, at)
    for quarter in _QUARTERS:
        pairs = [wide[2 * quarter + half, lanes(0, 4)] for half in _HALVES]
        total = intrinsic("llvm.aarch64.neon.addp.v4i32", "int32x4", *pairs)
        at = lanes(4 * quarter, 4)
        store(sums, sums[row, at] + total, row, at)


def _few_products(codes: list[CodeLoader], fours: list[Expr], bits: int) -> Buffer:
    """Sums of products that an int16 holds: `[8, 8]`, two rows of four sums in each vector."""
    narrow = local((8, 8), "int16")
    for step, (load, given) in enumerate(zip(codes, fours, strict=True)):
        spread = _fenced(T.broadcast(given, 4))
        for quarter in _QUARTERS:
            loaded = load(16 * quarter, 16)
            if bits == 8:
                loaded = T.bitwise_xor(loaded, T.broadcast(T.uint8(128), 16))
            vector = _fenced(loaded)
            for half in _HALVES:
                cut: Any = T.vectorhigh if half else T.vectorlow
                product = intrinsic(
                    "llvm.aarch64.neon.smull.v8i16",
                    "int16x8",
                    cut("int8x8", vector),
                    cut("int8x8", spread),
                )
                place, at = 2 * quarter + half, lanes(0, 8)
                store(narrow, narrow[place, at] + product if step else product, place, at)
    return narrow


def _fenced(vector: Expr) -> Expr:
    """The same 16 bytes as int8, of which LLVM does not see how they came about.

    Otherwise it takes vectors apart to save it work on their halves, and moves upper halves down, where
    `smlal2` multiplies them where they are. The fence is no instruction.
    """
    floats = T.reinterpret(vector, dtype="float32x4")
    return T.reinterpret(intrinsic("llvm.arithmetic.fence", "float32x4", floats), dtype="int8x16")
