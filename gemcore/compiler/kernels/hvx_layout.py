"""How packed weights lie for Hexagon's vectors of 128 bytes; in NumPy alone.

The same bytes as in `gemcore.packing`, in another order, so shapes and sizes stay. Two tiles lie side by
side, so that one vector holds a line of 32 rows: first the codes of all pairs of tiles,
`[pairs, blocks, lines, 2, 64]`, and those of a last, single tile, `[blocks, lines, 64]`; then in the same
order the factors, `[pairs, blocks, kinds, 2, 16]` float16, where the kinds are scales and minima. So every
vector of codes lies at a multiple of 128 bytes, which the processor reads in one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.schemes import LINE, TILE, Scheme

HVX_SCHEMES = ("q4a-g32", "q4a-g64", "q4s-g32", "q8-g32")
"""Schemes whose products Hexagon's vectors take."""

Bytes = npt.NDArray[np.uint8]


def arrange(packed: npt.NDArray[Any], scheme: Scheme) -> npt.NDArray[Any]:
    """A weight as `gemcore.packing.pack` lays it out, in the order that HVX reads; of the same shape."""
    if scheme.name not in HVX_SCHEMES:
        return packed
    codes, factors = packed[:, :, : scheme.code_bytes], packed[:, :, scheme.code_bytes :]
    parts = (*_paired(codes, LINE), *_paired(factors, 2 * TILE))
    return np.concatenate([part.reshape(-1) for part in parts]).reshape(packed.shape)


def place(scheme: Scheme, shape: tuple[int, int], tile: Any, block: Any, start: int) -> Any:
    """Where a line of codes, or the scales or minima, of a tile and a block begin.

    Args:
        scheme: how the weight is stored.
        shape: its tiles and blocks.
        tile, block: which of those; numbers, or expressions of a kernel.
        start: where it begins in the block as `gemcore.packing` lays it out.
    """
    tiles, blocks = shape
    size = scheme.block_bytes - scheme.code_bytes
    unit, whole, base = LINE, scheme.code_bytes, 0
    if start >= whole:
        start -= whole
        unit, whole, base = 2 * TILE, size, tiles * blocks * whole
    # A last tile that has no other lies by itself.
    side = 2 if tiles % 2 == 0 else 1 if tiles == 1 else 2 - tile // (tiles - 1)
    first = base + tile // 2 * (2 * blocks * whole)
    return first + (block * whole + start) * side + tile % 2 * unit


def _paired(values: Bytes, unit: int) -> tuple[Bytes, Bytes]:
    """Units of bytes `[tiles, blocks, units * unit]`, those of two tiles side by side; and the rest."""
    tiles, blocks, _ = values.shape
    count = values.shape[2] // unit
    units = values.reshape(tiles, blocks, count, unit)
    pairs = units[: tiles // 2 * 2].reshape(tiles // 2, 2, blocks, count, unit)
    return pairs.transpose(0, 2, 3, 1, 4), units[tiles // 2 * 2 :]
