"""The grid of codes that weights are rounded to, for rows of several schemes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from gemcore.packing import byte_factors
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
        zero_step: what a step of a zero point is, in codes, where scales and minima take a byte each.
    """

    low: Tensor | float
    high: Tensor | float
    affine: bool
    group: int
    shrinks: tuple[Tensor | float, ...]
    zero_step: Tensor | float | None = None

    @property
    def minimum_type(self) -> torch.dtype:
        """Of minima as they are stored."""
        return torch.float16 if self.zero_step is None else torch.float32


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
        zero_step=spread([s.zero_step for s in schemes]) if schemes[0].byte_factors else None,
    )


def stored(scale: Tensor, minimum: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The nearest scales and minima that a scheme can store, from float32: float16, or float32 minima."""
    if grid.zero_step is None:
        return scale.half(), minimum.half()
    step = grid.zero_step.numpy() if isinstance(grid.zero_step, Tensor) else grid.zero_step
    scales, minima = byte_factors(scale.numpy(), minimum.numpy(), step)
    return torch.from_numpy(scales), torch.from_numpy(minima)


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
