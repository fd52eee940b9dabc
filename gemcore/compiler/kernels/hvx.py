"""Products for Hexagon: HVX multiplies and adds the integers of 32 rows at once, 128 a instruction.

What is float32 is scalar: HVX has no float32 of one rounding before its 79th version, only a format of
its own, which would give other bits than every other machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from tvm.script import tirx as T

from gemcore.compiler.instructions import UNIT, InstructionSet
from gemcore.compiler.kernels.vector import (
    Buffer,
    Expr,
    fma,
    four_values,
    intrinsic,
    lanes,
    store,
)
from gemcore.schemes import DOTS, GROUP, LINE, TILE, Scheme

VECTOR = 128
"""Bytes of a vector."""

WORDS = VECTOR // 4
"""Rows of a pair of tiles, of which a vector holds an integer each."""

_LOW, _HIGH = 0x0F0F0F0F, -0x0F0F0F10

Visit = Callable[[Expr, int], None]
Write = Callable[[Expr, Expr, Expr], None]
"""`(token, row, sum)`."""


@attrs.frozen(kw_only=True)
class Product:
    """A product with a weight in the order of `gemcore.compiler.kernels.hvx_layout`.

    Attributes:
        isa: the instructions.
        scheme: how the weight is stored.
        inputs, outputs: its shape.
        flat: its bytes, one after the other.
    """

    isa: InstructionSet
    scheme: Scheme
    inputs: int
    outputs: int
    flat: Buffer

    def pair(self, rows: tuple[Buffer, ...], p: Expr, first: Expr, count: int, put: Write) -> None:
        """Call `put` with the sums of `count` tokens and 32 rows, those of pair `p`."""
        self._tiles(rows, p, first, count, put, single=False)

    def single(self, rows: tuple[Buffer, ...], first: Expr, count: int, put: Write) -> None:
        """Likewise with those of the last tile, where their number is odd."""
        self._tiles(rows, self.pairs, first, count, put, single=True)

    @property
    def pairs(self) -> int:
        """Pairs of tiles."""
        return self._all_tiles // 2

    @property
    def odd(self) -> bool:
        """Whether there is one more tile."""
        return self._all_tiles % 2 == 1

    @property
    def _all_tiles(self) -> int:
        return -(-self.outputs // TILE)

    @property
    def _blocks(self) -> int:
        return self.inputs // self.scheme.group

    def _tiles(
        self,
        rows: tuple[Buffer, ...],
        p: Expr,
        first: Expr,
        count: int,
        put: Write,
        *,
        single: bool,
    ) -> None:
        values, scales, sums = rows
        scheme, isa = self.scheme, self.isa
        tiles = 1 if single else 2
        own_rows = tiles * TILE
        # A single tile fills a vector with two of its lines: one dot product takes either half.
        accumulators = (2 if single else 1) * (2 if scheme.bits == 4 else 1)
        acc = aligned((count, WORDS), "float32")
        words = aligned((2 * WORDS,), "int32")
        # Storage of each token by itself: what is larger than 1 KB is not on the stack.
        dots = [aligned((accumulators, WORDS), "int32") for _ in range(count)]
        for m in range(count):
            with T.serial(own_rows) as r:
                store(acc, T.float32(0), m, r)
        parts = scheme.group // GROUP
        with T.serial(self._blocks) as b:
            place = self._factors(words, p, b, tiles)
            for part in range(parts):
                g = b * parts + part
                for m in range(count):
                    offset = T.broadcast(sums[first + m, g] * -scheme.offset, WORDS)
                    store(dots[m], offset if scheme.offset else zeros(), 0, lanes(0, WORDS))
                    for a in range(1, accumulators):
                        store(dots[m], zeros(), a, lanes(0, WORDS))
                self._add_products(dots, (values, first, g * GROUP), p, b, part, single)
                for sums_of_one in dots:
                    self._join(sums_of_one, single=single)
                with T.serial(own_rows) as r:
                    scale = T.reinterpret(words[place + r], dtype="float32")
                    for m in range(count):
                        t = first + m
                        dot = dots[m][0, r]
                        if single:
                            dot = dot + dots[m][accumulators // 2, TILE + r]
                        dot = T.cast(dot, "float32")
                        total = fma(isa, dot, scale * scales[t, g], acc[m, r], 1)
                        if scheme.has_minimum:
                            minimum = T.reinterpret(words[place + own_rows + r], dtype="float32")
                            weighted = scales[t, g] * T.cast(sums[t, g], "float32")
                            total = fma(isa, minimum, weighted, total, 1)
                        store(acc, total, m, r)
        left = self.outputs - p * WORDS
        whole = not single and self.outputs % WORDS == 0
        with T.serial(own_rows if whole else T.min(own_rows, left)) as r:
            for m in range(count):
                put(first + m, p * WORDS + r, acc[m, r])

    def _add_products(
        self,
        dots: list[Buffer],
        at: tuple[Buffer, Expr, Expr],
        p: Expr,
        b: Expr,
        part: int,
        single: bool,
    ) -> None:
        """Add the products of 32 inputs; `dots[m][i]` takes those of bits and halves of its own."""
        values, first, column = at
        bits = self.scheme.bits
        lines = DOTS * bits // 8
        tiles = 1 if single else 2
        block = self.scheme.code_bytes
        start = p * (2 * self._blocks * block) + b * (tiles * block) + part * lines * tiles * LINE
        codes_in_line = 8 // bits
        step = 2 if single else 1
        for line in range(0, lines, step):
            vector = words_at(self.flat, start + line * tiles * LINE)
            for half in range(step):
                for place in range(codes_in_line):
                    j = (line + half) * codes_in_line + place
                    codes = vector
                    if bits == 4:
                        codes = T.bitwise_and(vector, T.broadcast((_LOW, _HIGH)[place], WORDS))
                    to = half * codes_in_line + place
                    for m, own in enumerate(dots):
                        four = four_values(values, first + m, column + 4 * j)
                        total = add_products(own[to, lanes(0, WORDS)], codes, four)
                        store(own, total, to, lanes(0, WORDS))

    def _join(self, dots: Buffer, *, single: bool) -> None:
        """Codes in the upper half of a byte were 16 times too large; that is taken off exactly."""
        if self.scheme.bits != 4:
            return
        for low in (0, 2) if single else (0,):
            high = dots[low + 1, lanes(0, WORDS)] >> T.broadcast(4, WORDS)
            store(dots, dots[low, lanes(0, WORDS)] + high, low, lanes(0, WORDS))

    def _factors(self, words: Buffer, p: Expr, b: Expr, tiles: int) -> Expr:
        """Write scales, then minima, of a block to `words` as the bits of float32; gives their place."""
        scheme = self.scheme
        size = scheme.block_bytes - scheme.code_bytes
        base = self._all_tiles * self._blocks * scheme.code_bytes
        total = base + self._all_tiles * self._blocks * size
        start = base + p * (2 * self._blocks * size) + b * (tiles * size)
        if tiles * size == VECTOR:
            from_, place = start, 0
        else:
            # A whole vector, though less is needed: not beyond the end.
            from_ = T.min(start, total - VECTOR)
            place = (start - from_) // 2
        halves = T.reinterpret(self.flat[lanes(from_, VECTOR)], dtype="uint16x64")
        store(words, float_bits(T.cast(halves, "int32x64"), 2 * WORDS), lanes(0, 2 * WORDS))
        return place


def marked(kernel: Any, isa: InstructionSet) -> Any:
    """The kernel with a mark that it is to be compiled for HVX, where it is."""
    return kernel.with_attr(UNIT, "hvx") if isa.dot == "hvx" else kernel


def float_bits(halves: Expr, count: int) -> Expr:
    """The bits of float32 numbers that equal finite float16 numbers, given as the bits of those."""

    def same(value: int) -> Expr:
        return T.broadcast(value, count)

    magnitude = T.bitwise_and(halves, same(0x7FFF))
    sign = T.bitwise_and(halves, same(0x8000)) << same(16)
    normal = (magnitude << same(13)) + same(112 << 23)
    # Those below 2**-14 have no leading one: count the zeros before the first one.
    zeros_before = intrinsic("llvm.ctlz", f"int32x{count}", magnitude, T.bool(False))
    small = (magnitude << (zeros_before - same(8))) + ((same(133) - zeros_before) << same(23))
    small = T.Select(magnitude == same(0), same(0), small)
    return T.bitwise_or(sign, T.Select(magnitude < same(1024), small, normal))


def add_products(total: Expr, codes: Expr, four: Expr) -> Expr:
    """Add to each of 32 integers the products of four unsigned codes with four activations."""
    return intrinsic("llvm.hexagon.V6.vrmpybus.acc.128B", "int32x32", total, codes, four)


def words_at(flat: Buffer, start: Expr) -> Expr:
    """A vector of bytes, as integers."""
    return T.reinterpret(flat[lanes(start, VECTOR)], dtype="int32x32")


def zeros() -> Expr:
    """32 zeros."""
    return T.broadcast(0, WORDS)


def aligned(shape: tuple[int, ...], dtype: str) -> Buffer:
    """Local storage whose rows of 128 bytes are whole vectors."""
    return T.alloc_buffer(shape, dtype, align=VECTOR)


def flat_bytes(packed: Buffer, size: int) -> Buffer:
    """The bytes of a weight, one after the other."""
    return T.decl_buffer((size,), "uint8", data=packed.data, align=VECTOR)
