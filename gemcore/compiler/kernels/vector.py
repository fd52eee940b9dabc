"""Expressions over vectors of 16 lanes, from which the kernels are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script import tirx as T

from gemcore.compiler.instructions import InstructionSet
from gemcore.models.reference import (
    EXP_COEFFICIENTS,
    EXP_HIGHEST,
    EXP_LOWEST,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
)
from gemcore.schemes import SCALE_SHIFT, SCALE_UNIT, CodePart, Scheme

LANES = 16

# 1.5 * 2**23: adding it to a number below 2**22 rounds that to an integer, half to even.
ROUNDER = 12582912.0

Expr = Any
Buffer = Any
CodeLoader = Callable[[int, int], Expr]
"""`(first byte, bytes) -> uint8 vector` of the 64 codes of one dot product."""


def lanes(start: Expr, count: int = LANES) -> Expr:
    """The index of `count` consecutive elements."""
    return T.ramp(start, 1, count)


def splat(value: Expr, count: int = LANES) -> Expr:
    """A vector of `count` copies; a Python float becomes float32."""
    if isinstance(value, float):
        # A float32 constant keeps all digits of a Python float until it is cast: round it here.
        value = T.float32(float(np.float32(value)))
    return T.broadcast(value, count)


def store(buffer: Buffer, value: Expr, *index: Expr) -> None:
    """Write `value` at `index`."""
    T.buffer_store(buffer, value, list(index))


def intrinsic(name: str, dtype: str, *arguments: Expr) -> Expr:
    """Call an LLVM intrinsic."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *arguments, dtype=dtype)


def prefetch(buffer: Buffer, *index: Expr) -> None:
    """Ask for a cache line that will be read soon, and only once."""
    address = T.address_of(buffer[index])
    name = T.llvm_lookup_intrinsic_id("llvm.prefetch")
    T.evaluate(T.call_llvm_intrin(name, address, 0, 0, 1, dtype="void"))


def local(shape: tuple[int, ...], dtype: str) -> Buffer:
    """Storage of one iteration: registers, or the stack."""
    return T.alloc_buffer(shape, dtype)


def fma(isa: InstructionSet, a: Expr, b: Expr, c: Expr, count: int = LANES) -> Expr:
    """`a * b + c` in float32, rounded once; `count` is the number of lanes."""
    if isa.fused_multiply_add:
        return intrinsic("llvm.fma", _typed("float32", count), a, b, c)
    wide = _typed("float64", count)
    return T.cast(T.cast(a, wide) * T.cast(b, wide) + T.cast(c, wide), _typed("float32", count))


def _typed(dtype: str, count: int) -> str:
    return dtype if count == 1 else f"{dtype}x{count}"


def exp(isa: InstructionSet, x: Expr, scratch: Buffer, count: int = LANES) -> Expr:
    """`e**x`, by the very steps of `gemcore.models.reference.exp`.

    `scratch` is a local float32 buffer `[3, count]` that holds the steps between.
    """
    at = lanes(0, count)

    def constant(value: float) -> Expr:
        return splat(value, count)

    store(scratch, T.max(T.min(x, constant(EXP_HIGHEST)), constant(EXP_LOWEST)), 0, at)
    rounded = fma(isa, scratch[0, at], constant(LOG2_E), constant(ROUNDER), count)
    store(scratch, rounded - constant(ROUNDER), 1, at)
    power = scratch[1, at]
    store(scratch, fma(isa, power, constant(-LN2_HIGH), scratch[0, at], count), 0, at)
    store(scratch, fma(isa, power, constant(-LN2_LOW), scratch[0, at], count), 0, at)
    r = scratch[0, at]
    store(scratch, constant(EXP_COEFFICIENTS[0]), 2, at)
    for coefficient in EXP_COEFFICIENTS[1:]:
        store(scratch, fma(isa, scratch[2, at], r, constant(coefficient), count), 2, at)
    store(scratch, fma(isa, scratch[2, at], r * r, r, count), 2, at)
    integers = f"int32x{count}"
    exponent = (T.cast(power, integers) + T.broadcast(127, count)) << T.broadcast(23, count)
    scale = T.reinterpret(exponent, dtype=f"float32x{count}")
    return (scratch[2, at] + constant(1.0)) * scale


def four_values(activations: Buffer, row: Expr, column: Expr) -> Expr:
    """Four int8 activations as one int32."""
    return T.reinterpret(activations[row, lanes(column, 4)], dtype="int32")


def halves(packed: Buffer, *index: Expr) -> Expr:
    """16 float16 numbers out of a buffer of bytes, as float32."""
    *front, start = index
    return T.cast(
        T.reinterpret(packed[(*front, lanes(start, 2 * LANES))], dtype="float16x16"), "float32x16"
    )


def byte_scales(stored: Expr, count: int = LANES) -> Expr:
    """`count` scales that take a byte each, as float32; `stored` are the bytes."""
    shift = T.uint16(SCALE_SHIFT)
    wide = T.cast(stored, _typed("uint16", count))
    halves = T.shift_left(wide, T.broadcast(shift, count) if count > 1 else shift)
    parts = T.cast(T.reinterpret(halves, dtype=_typed("float16", count)), _typed("float32", count))
    return parts * _same(float(SCALE_UNIT), count)


def byte_minima(scheme: Scheme, stored: Expr, scales: Expr, count: int = LANES) -> Expr:
    """`count` minima whose zero points take a byte each, as float32; `scales` are theirs."""
    zeros = T.cast(T.cast(stored, _typed("int32", count)), _typed("float32", count))
    return zeros * _same(-scheme.zero_step, count) * scales


def _same(value: float, count: int) -> Expr:
    return splat(value, count) if count > 1 else T.float32(value)


def unpack_codes(parts: Sequence[CodePart], load: Callable[[int], Expr], count: int) -> Expr:
    """`count` of the codes of one dot product, uint8: what each plane holds of them, put together.

    `load` gives `count` bytes of a block from the given one on.
    """
    codes: Expr = None
    for part in parts:
        bits = load(part.start)
        # One shift takes the bits to their place in the code.
        if part.shift > part.low:
            bits = T.shift_right(bits, T.broadcast(T.uint8(part.shift - part.low), count))
        elif part.shift < part.low:
            bits = T.shift_left(bits, T.broadcast(T.uint8(part.low - part.shift), count))
        if part.width < 8:
            bits = T.bitwise_and(bits, T.broadcast(T.uint8(part.mask << part.low), count))
        codes = bits if codes is None else T.bitwise_or(codes, bits)
    return codes


def dot_accumulate(
    isa: InstructionSet, sums: Buffer, row: Expr, codes: CodeLoader, four: Expr, bits: int
) -> None:
    """Add the products of 16 rows x 4 codes with 4 activations to int32 `sums[row, 0:16]`.

    Args:
        isa: chooses the instruction.
        sums: local int32 buffer `[rows, 16]`.
        row: row of `sums`.
        codes: loads the unsigned codes.
        four: the activations, as one int32.
        bits: bits of a code; those of 8 have an offset of 128, which signed instructions take off.
    """
    if isa.dot == "vnni512":
        bytes64 = T.reinterpret(T.broadcast(four, 16), dtype="int8x64")
        total = intrinsic(
            "llvm.x86.avx512.vpdpbusd.512", "int32x16", sums[row, lanes(0)], codes(0, 64), bytes64
        )
        store(sums, total, row, lanes(0))
    elif isa.dot == "avx2":
        for part in range(2):
            at = lanes(8 * part, 8)
            product = _avx2_products(codes(32 * part, 32), four, bits)
            store(sums, sums[row, at] + product, row, at)
    elif isa.dot == "neon-dot":
        for part in range(4):
            at = lanes(4 * part, 4)
            signed = codes(16 * part, 16)
            if bits == 8:
                signed = T.bitwise_xor(signed, T.broadcast(T.uint8(128), 16))
            operands = (
                T.reinterpret(signed, dtype="int8x16"),
                T.reinterpret(T.broadcast(four, 4), dtype="int8x16"),
            )
            name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
            store(sums, intrinsic(name, "int32x4", sums[row, at], *operands), row, at)
    else:
        words = T.reinterpret(codes(0, 64), dtype="int32x16")
        for k in range(4):
            code = T.bitwise_and(words >> T.broadcast(8 * k, 16), T.broadcast(255, 16))
            value = (four << (24 - 8 * k)) >> 24
            store(sums, sums[row, lanes(0)] + code * T.broadcast(value, 16), row, lanes(0))


def _avx2_products(codes: Expr, four: Expr, bits: int) -> Expr:
    """Sums of four products of 32 unsigned codes with the same four activations: int32x8."""
    values = T.reinterpret(T.broadcast(four, 8), dtype="int8x32")
    ones = T.broadcast(T.int16(1), 16)
    if bits == 8:
        # vpmaddubsw saturates at 16 bits: |code| <= 128 times |activation| <= 127, twice, still fits.
        signed = T.reinterpret(T.bitwise_xor(codes, T.broadcast(T.uint8(128), 32)), dtype="int8x32")
        values = intrinsic("llvm.x86.avx2.psign.b", "int8x32", values, signed)
        signed = intrinsic("llvm.x86.avx2.psign.b", "int8x32", signed, signed)
        codes = T.reinterpret(signed, dtype="uint8x32")
    pairs = intrinsic("llvm.x86.avx2.pmadd.ub.sw", "int16x16", codes, values)
    return intrinsic("llvm.x86.avx2.pmadd.wd", "int32x8", pairs, ones)
