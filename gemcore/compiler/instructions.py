"""What a processor can do, as far as the kernels care."""

from __future__ import annotations

from typing import Literal

import attrs

DotProduct = Literal["vnni512", "avx2", "neon-dot", "neon", "plain"]


@attrs.frozen(kw_only=True)
class InstructionSet:
    """The instructions that a kernel may use.

    Attributes:
        dot: the four-way int8 dot product: `vpdpbusd` on 512 bits, `vpmaddubsw` + `vpmaddwd`, NEON
            `sdot`, or its `smlal` where that is missing, or 32-bit multiplications that every machine has.
        fused_multiply_add: the machine rounds `a * b + c` once. Where it does not, float64 stands in.
        token_tiles: how many tokens a product takes at once, largest first; ends with 1.
    """

    dot: DotProduct = "plain"
    fused_multiply_add: bool = False
    token_tiles: tuple[int, ...] = (4, 1)

    @property
    def signed_codes(self) -> bool:
        """The dot product takes signed codes, so 8-bit codes are stored with another offset."""
        return self.dot == "neon-dot"


VNNI512 = InstructionSet(dot="vnni512", fused_multiply_add=True, token_tiles=(12, 4, 1))
AVX2 = InstructionSet(dot="avx2", fused_multiply_add=True)
NEON_DOT = InstructionSet(dot="neon-dot", fused_multiply_add=True)
NEON = InstructionSet(dot="neon", fused_multiply_add=True)
PLAIN = InstructionSet()
