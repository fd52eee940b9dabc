"""Coordinate descent behind GPTQ: codes and scales that are better together.

GPTQ decides on a code once, knowing nothing of the columns to come. Descent takes each column again, with
all others as they are, and sets its code to the best one (QuantEase, arXiv 2309.01885); behind each group
of columns its scale and minimum are fitted to the codes, with all other groups as they are. Each step
lowers the error `ΔW·H·ΔWᵀ` of a row, or leaves it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gem_hybrid.grid import Grid, nearest_codes, reciprocal, stored


def refine(
    weight: Tensor,
    codes: Tensor,
    scales: Tensor,
    minima: Tensor,
    hessian: Tensor,
    grid: Grid,
    passes: int,
) -> None:
    """Improve codes, scales and minima in place.

    Args:
        weight: float32 `[in, rows]`: one column is one piece of memory.
        codes: int16 `[in, rows]`, less the offset.
        scales, minima: `[in / group, rows]`, as the grid stores them.
        hessian: float32 `[in, in]`, damped.
        grid: the codes that there are.
        passes: over all columns.
    """
    size = grid.group
    inputs = len(weight)
    values = codes.float()
    lost = values.reshape(-1, size, weight.shape[1]) * scales.float()[:, None]
    lost += minima.float()[:, None]
    lost = lost.reshape(inputs, -1).sub_(weight)
    slopes = hessian @ lost
    diagonal = hessian.diagonal().tolist()
    for _ in range(passes):
        for group in range(inputs // size):
            start, end = group * size, (group + 1) * size
            step, low = scales[group].float(), minima[group].float()
            part, block = hessian[start:end, start:end], values[start:end]
            changed = _choose_codes(
                block,
                lost[start:end],
                slopes[start:end].clone(),
                part,
                step,
                low,
                grid,
                diagonal[start:end],
            )
            inside = slopes[start:end] + part @ changed
            scale, minimum = _fit(block, inside, part, scales[group], minima[group], grid)
            changed += block * (scale.float() - step) + (minimum.float() - low)
            scales[group], minima[group] = scale, minimum
            lost[start:end] += changed
            slopes.addmm_(hessian[:, start:end], changed)
    codes.copy_(values)


def _choose_codes(
    codes: Tensor,
    lost: Tensor,
    slopes: Tensor,
    part: Tensor,
    step: Tensor,
    low: Tensor,
    grid: Grid,
    diagonal: list[float],
) -> Tensor:
    """Choose the codes of one group, column by column; returns how values change, `[group, rows]`."""
    inverse = reciprocal(step)
    changed = torch.empty_like(codes)
    for i, curvature in enumerate(diagonal):
        before = codes[i] * step + low
        code = nearest_codes(before - slopes[i] / curvature, inverse, low, grid)
        torch.sub(code * step + low, before, out=changed[i])
        codes[i] = code
        if i + 1 < len(codes):
            slopes[i + 1 :].addr_(part[i, i + 1 :], changed[i])
    return changed


def _fit(
    codes: Tensor, slopes: Tensor, part: Tensor, scale: Tensor, minimum: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """The best scale and minimum for a group's codes, `[rows]`; as they were where none is better.

    In `a`, the change of the scale, and `b`, that of the minimum, the error changes by
    `2(a·c + b·1)·slopes + (a·c + b·1)ᵀ·part·(a·c + b·1)`.
    """
    curved = part @ codes
    slope = (codes * slopes).sum(0)
    square = (codes * curved).sum(0)
    step, low = scale.float(), minimum.float()
    if not grid.affine:
        new_scale, new_minimum = stored(step - slope * reciprocal(square), low, grid)
        other = mixed = total = torch.zeros_like(slope)
    else:
        other, mixed, total = slopes.sum(0), curved.sum(0), part.sum().expand_as(slope)
        determinant = square * total - mixed.square()
        known = determinant > 1e-6 * square * total
        inverse = torch.where(known, 1 / torch.where(known, determinant, 1.0), 0.0)
        new_scale, _ = stored(step + (mixed * other - total * slope) * inverse, low, grid)
        # The minimum is the best one for the scale as it is stored.
        b = torch.where(known, -(other + (new_scale.float() - step) * mixed) / total, 0.0)
        new_scale, new_minimum = stored(new_scale.float(), low + b, grid)
    a, b = new_scale.float() - step, new_minimum.float() - low
    gain = 2 * (a * slope + b * other) + a * a * square + 2 * a * b * mixed + b * b * total
    better = gain < 0  # not where something overflowed
    return torch.where(better, new_scale, scale), torch.where(better, new_minimum, minimum)
