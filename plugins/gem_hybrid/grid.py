"""The grid of codes that weights are rounded to, for rows of several schemes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from gemcore.schemes import Scheme

CANDIDATES = 9
"""Parts of the extremes that a search for scales tries."""


@attrs.frozen(kw_only=True, eq=False)
class Grid:
    """Which codes there are, less the offset, for rows that lie side by side: numbers, or float32 `[rows]`.

    Attributes:
        low, high: the lowest and the highest code; with a minimum the lowest is 0.
        affine: groups have a minimum.
        group: columns that share a scale.
        shrinks: of each candidate, the part of the extremes that its grid covers.
    """

    low: Tensor | float
    high: Tensor | float
    affine: bool
    group: int
    shrinks: tuple[Tensor | float, ...]


def make_grid(schemes: Sequence[Scheme], rows: int) -> Grid:
    """The grid of `rows` rows for each of the schemes, one scheme after the other."""
    lows = [float(lowest_code(scheme) - scheme.offset) for scheme in schemes]
    highs = [float(2**scheme.bits - 1 - scheme.offset) for scheme in schemes]
    ends = [1 - 2 ** (-scheme.bits / 2) for scheme in schemes]
    parts = [i / (CANDIDATES - 1) for i in range(CANDIDATES)]
    shrinks = [[1 - part * (1 - end) for end in ends] for part in parts]

    def spread(values: list[float]) -> Tensor | float:
        if len(values) == 1:
            return values[0]
        return torch.tensor(values).repeat_interleave(rows)

    return Grid(
        low=spread(lows),
        high=spread(highs),
        affine=schemes[0].has_minimum,
        group=schemes[0].group,
        shrinks=tuple(spread(each) for each in shrinks),
    )


def nearest_codes(values: Tensor, inverse: Tensor, minimum: Tensor, grid: Grid) -> Tensor:
    """The nearest codes, less the offset."""
    codes = (values - minimum).mul_(inverse) if grid.affine else values * inverse
    codes.round_()
    if isinstance(grid.low, Tensor) and isinstance(grid.high, Tensor):
        return torch.clamp(codes, grid.low, grid.high, out=codes)
    return codes.clamp_(float(grid.low), float(grid.high))


def reciprocal(scale: Tensor) -> Tensor:
    """One over each, and 0 for 0."""
    return torch.where(scale != 0, 1 / torch.where(scale != 0, scale, 1.0), 0.0)


def lowest_code(scheme: Scheme) -> int:
    """The lowest code: with 8 bits and no minimum the grid is symmetric, as it is to the nearest."""
    return 1 if scheme.bits == 8 and scheme.offset else 0
