"""What a processor can do, as far as the kernels care."""

from __future__ import annotations

from typing import Literal

import attrs

DotProduct = Literal["vnni512", "avx2", "neon-dot", "neon", "hvx", "plain"]


UNIT = "gem_unit"
"""Attribute of a kernel that must be compiled for another unit than the rest: its name."""


@attrs.frozen(kw_only=True)
class InstructionSet:
    """The instructions that a kernel may use.

    Attributes:
        dot: the four-way int8 dot product: `vpdpbusd` on 512 bits, `vpmaddubsw` + `vpmaddwd`, NEON
            `sdot`, or its `smlal` where that is missing, Hexagon's `vrmpy`, or 32-bit multiplications that
            every machine has.
        fused_multiply_add: the machine rounds `a * b + c` once. Where it does not, float64 stands in.
        token_tiles: how many tokens a product takes at once, largest first; ends with 1.
    """

    dot: DotProduct = "plain"
    fused_multiply_add: bool = False
    token_tiles: tuple[int, ...] = (4, 1)

    @property
    def weight_alignment(self) -> int:
        """Bytes that packed weights begin at a multiple of, where the kernels need one; else 0."""
        return 128 if self.dot == "hvx" else 0

    @property
    def vector_floats(self) -> bool:
        """Whether integer products and vectors of float32 may stand in one kernel.

        Vectors of float32 on HVX round in their own way, so kernels that have them are compiled without
        HVX, and those that HVX takes, which bear the attribute `UNIT`, have none.
        """
        return self.dot != "hvx"

    def side_by_side(self, most: int) -> int:
        """How many sums a kernel works on at the same time, at most.

        Where vectors of float32 become single numbers, one: more would not fit the registers, and the
        compiler takes minutes over them.
        """
        return most if self.vector_floats else 1

    @property
    def signed_codes(self) -> bool:
        """The dot product takes signed codes, so 8-bit codes are stored with another offset."""
        return self.dot == "neon-dot"


VNNI512 = InstructionSet(dot="vnni512", fused_multiply_add=True, token_tiles=(12, 4, 1))
AVX2 = InstructionSet(dot="avx2", fused_multiply_add=True)
NEON_DOT = InstructionSet(dot="neon-dot", fused_multiply_add=True)
NEON = InstructionSet(dot="neon", fused_multiply_add=True)
HVX = InstructionSet(dot="hvx", fused_multiply_add=True)
PLAIN = InstructionSet()
