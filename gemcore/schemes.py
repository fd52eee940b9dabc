"""The schemes that weights are stored in: their names, and where their codes lie.

This module imports nothing heavy, so that plugins can name schemes when they register; `gemcore.packing` says
what the schemes mean, and packs.
"""

from __future__ import annotations

import attrs

from gemcore.errors import unknown_name

TILE = 16
"""Rows that lie side by side in a block."""

LINE = 4 * TILE
"""Bytes of the operand of one four-way dot product with each row."""

GROUP = 32
"""Consecutive activations that share a scale; of a scheme's values as many, or a multiple."""

DOTS = GROUP // 4
"""Four-way dot products in a group of activations."""

SCALE_SHIFT = 6
"""Bits of a float16 below those that a scale in a byte has."""

SCALE_UNIT = 8
"""A scale in a byte is so many times that float16."""

ZERO_BITS = 8
"""Of a zero point in a byte: the upper ones are the bits of a code, those below are parts of a code."""


@attrs.frozen(kw_only=True)
class CodePart:
    """Where some bits of the 64 codes (16 rows x 4 values) of a dot product lie.

    Attributes:
        start: where in the block their line of 64 bytes begins, one for each code.
        shift: lowest bit in the byte.
        low: lowest bit in the code.
        width: number of bits.
    """

    start: int
    shift: int
    low: int
    width: int

    @property
    def mask(self) -> int:
        """The bits as they lie when the lowest is at 0."""
        return (1 << self.width) - 1


@attrs.frozen(kw_only=True)
class Scheme:
    """One way to store a linear weight.

    Attributes:
        name: what users type.
        bits: bits of one code.
        offset: subtracted from a code before scaling; 0 where the group has a minimum instead.
        has_minimum: groups store a minimum beside the scale.
        byte_factors: scale and minimum take a byte each, the minimum as a zero point: it is
            `-scale * zero * zero_step`.
        group: consecutive values of a row that share a scale, a multiple of `GROUP`.
        grouped: False for `f16`, which has neither codes nor groups.
    """

    name: str
    bits: int
    offset: int = 0
    has_minimum: bool = False
    byte_factors: bool = False
    group: int = GROUP
    grouped: bool = True

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes in one block of 16 rows and one group."""
        return TILE * self.group * self.bits // 8

    def code_parts(self, dot: int) -> tuple[CodePart, ...]:
        """Where the codes of the group's values `4 * dot` to `4 * dot + 3` lie, lowest bits first."""
        half, dot = divmod(dot, DOTS)
        first = half * self.bits * LINE  # as many lines for each 32 values as a code has bits
        whole = 8 // self.bits  # codes in a byte, below what is left over at its top
        if dot < whole * self.bits:
            line, place = divmod(dot, whole)
            return (
                CodePart(
                    start=first + line * LINE, shift=place * self.bits, low=0, width=self.bits
                ),
            )
        parts = []
        over = 8 - whole * self.bits
        low = 0
        while low < self.bits:
            line, used = divmod((dot - whole * self.bits) * self.bits + low, over)
            width = min(over - used, self.bits - low)
            parts.append(
                CodePart(start=first + line * LINE, shift=8 - over + used, low=low, width=width)
            )
            low += width
        return tuple(parts)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: codes, then scales, then minima."""
        return self.code_bytes + self.factor_bytes * (2 if self.has_minimum else 1)

    @property
    def factor_bytes(self) -> int:
        """Bytes of the scales of one block, and of its minima."""
        return TILE if self.byte_factors else 2 * TILE

    @property
    def zero_step(self) -> float:
        """What one step of a zero point in a byte is, in codes."""
        return float(2.0 ** (self.bits - ZERO_BITS))

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight, scales and minima included."""
        return 8 * self.block_bytes / (TILE * self.group) if self.grouped else float(self.bits)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="q2z-g32", bits=2, has_minimum=True, byte_factors=True),
        Scheme(name="q2a-g64", bits=2, has_minimum=True, group=64),
        Scheme(name="q3z-g32", bits=3, has_minimum=True, byte_factors=True),
        Scheme(name="q3a-g32", bits=3, has_minimum=True),
        Scheme(name="q3a-g64", bits=3, has_minimum=True, group=64),
        Scheme(name="q3s-g32", bits=3, offset=4),
        Scheme(name="q3s-g64", bits=3, offset=4, group=64),
        Scheme(name="q4z-g32", bits=4, has_minimum=True, byte_factors=True),
        Scheme(name="q4a-g32", bits=4, has_minimum=True),
        Scheme(name="q4a-g64", bits=4, has_minimum=True, group=64),
        Scheme(name="q4s-g32", bits=4, offset=8),
        Scheme(name="q4s-g64", bits=4, offset=8, group=64),
        Scheme(name="q5z-g32", bits=5, has_minimum=True, byte_factors=True),
        Scheme(name="q5a-g32", bits=5, has_minimum=True),
        Scheme(name="q5a-g64", bits=5, has_minimum=True, group=64),
        Scheme(name="q5s-g32", bits=5, offset=16),
        Scheme(name="q5s-g64", bits=5, offset=16, group=64),
        Scheme(name="q6-g32", bits=6, offset=32),
        Scheme(name="q6-g64", bits=6, offset=32, group=64),
        Scheme(name="q8-g32", bits=8, offset=128),
        Scheme(name="q8-g64", bits=8, offset=128, group=64),
        Scheme(name="f16", bits=16, grouped=False),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme called `name`; UsageError with the list when there is none."""
    if name not in SCHEMES:
        raise unknown_name("scheme", name, SCHEMES)
    return SCHEMES[name]


def fits(scheme: Scheme, shape: tuple[int, ...]) -> str | None:
    """Why a weight `[out, in]` cannot be stored in `scheme`, or None where it can."""
    if scheme.grouped and shape[-1] % scheme.group:
        return f"its {shape[-1]} inputs are not a multiple of the group size {scheme.group}"
    return None
