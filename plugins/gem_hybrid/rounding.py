"""Calibrated rounding: GPTQ in the grid of any group-wise scheme, with a search for the scales.

GPTQ (arXiv 2210.17323) rounds the columns of a weight one after the other, and moves what each one loses
into the columns that are still to come, as the Cholesky factor of the inverse Hessian says. Columns that
matter most come first ("activation order"). Scales belong to fixed groups of columns, so here the
groups are ordered, and the columns inside each; the scales of a group are chosen when its turn comes, for
the weights as they then are. What comes out are codes of the scheme itself, for the packers and kernels
that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gem_hybrid.grid import Grid, make_grid, nearest_codes, reciprocal, stored
from gem_hybrid.refining import refine
from gemcore.errors import UsageError
from gemcore.packing import Quantized, dequantize, quantize, stacked
from gemcore.schemes import GROUP, Scheme

LEAST_DAMPING = 0.05
"""What is added to the Hessian's diagonal at least, in parts of its mean."""

PASSES = 2
"""Of coordinate descent behind GPTQ."""

ROWS_AT_ONCE = 8192
_MOST_DAMPING = 1e4

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class RoundingOrder:
    """What GPTQ needs to know of the inputs of a weight.

    Attributes:
        hessian: float32 `[in, in]`, the mean of `x xᵀ`, not damped.
        order: int64 `[in]`, columns in the order of their rounding; those of a group are side by side.
        factor: float32 `[in, in]` in that order, the upper Cholesky factor of the damped inverse.
        damping: what was added to the diagonal for that.
    """

    hessian: Tensor
    order: Tensor
    factor: Tensor
    damping: float


def damping_for(inputs: int, tokens: int, asked: float | None = None, factor: float = 1.5) -> float:
    """The damping of a weight: what was asked for, or a factor times inputs over tokens, at most 1.

    A Hessian of few tokens has directions that look as if nothing ever came from there. Rounding would move
    its errors into them, and other text finds them there. On held-out text, factors from one to three
    did best for weights of every kind.
    """
    if asked is not None:
        return asked
    return min(1.0, max(LEAST_DAMPING, factor * inputs / max(1, tokens)))


def rounding_order(
    hessian: Tensor, damping: float = LEAST_DAMPING, group: int = GROUP
) -> RoundingOrder:
    """Prepare the rounding of weights `[out, in]` whose inputs have this Hessian `[in, in]`.

    Groups of `group` columns share a scale, as the scheme says.

    Inputs that never occur are damped like the others, and come last. Where the damped matrix is still
    not positive definite in floating point, the damping grows tenfold until it is.

    Raises:
        UsageError: the Hessian is not finite, which activations that overflow cause.
    """
    if not bool(torch.isfinite(hessian).all()):
        raise UsageError(
            "the calibration text gives activations that are not finite: the model overflows on it"
        )
    diagonal = hessian.diagonal().double()
    order = _activation_order(diagonal, group)
    # Nothing at all is known of weights whose inputs are all zero: they are rounded to nearest.
    unit = float(diagonal.mean()) or 1.0
    while damping < _MOST_DAMPING:
        factor = _factor(hessian[order][:, order], damping * unit, damping >= LEAST_DAMPING)
        if factor is not None:
            return RoundingOrder(
                hessian=hessian, order=order, factor=factor, damping=damping * unit
            )
        damping = max(10 * damping, 1e-6)
    raise UsageError("the calibration text gives activations too extreme to calibrate with")


def _factor(turned: Tensor, damping: float, single: bool) -> Tensor | None:
    """The upper Cholesky factor of the inverse of a matrix damped by so much; None where it has none.

    With the order of rows and columns reversed, `H = LLᵀ`; that of `H⁻¹` is then `L⁻¹`, reversed back, and
    takes one factorization and no inverse of `H`. Single precision is enough for a matrix that is
    well damped.
    """
    kind = torch.float32 if single else torch.float64
    eye = torch.eye(len(turned), dtype=kind)
    lower, failed = torch.linalg.cholesky_ex((turned.to(kind) + damping * eye).flip(0, 1))
    if int(failed):
        return None
    inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
    if not bool(torch.isfinite(inverse).all()):
        return None
    return inverse.flip(0, 1).float().contiguous()


def _activation_order(diagonal: Tensor, group: int) -> Tensor:
    """The largest groups of columns first, and in each the largest columns: int64 `[in]`."""
    groups = diagonal.reshape(-1, group)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    first = groups.mean(1).argsort(descending=True, stable=True)
    return (inside + group * torch.arange(len(groups))[:, None])[first].reshape(-1)


def round_calibrated(weight: Floats, prepared: RoundingOrder, scheme: Scheme) -> Quantized:
    """Round a weight `[out, in]` to codes of `scheme` with the least error that GPTQ finds.

    No row has a larger error `ΔW·H·ΔWᵀ` than `gemcore.packing.quantize`, round-to-nearest, gives it:
    where GPTQ does worse, that row is taken.

    Raises:
        UsageError: the weight is not finite, or too large for float16 scales.
    """
    parts = []
    for start in range(0, len(weight), ROWS_AT_ONCE):
        piece = weight[start : start + ROWS_AT_ONCE]
        nearest = quantize(piece, scheme)
        (found,) = round_side_by_side(piece, prepared, [scheme], PASSES)
        parts.append(_better_rows(piece, prepared.hessian, scheme, found, nearest))
    return stacked(parts)


def round_side_by_side(
    weight: Floats, prepared: RoundingOrder, schemes: Sequence[Scheme], passes: int = 0
) -> list[Quantized]:
    """What GPTQ gives in several schemes, in little more time than one takes if rows are few.

    Args:
        weight: finite, `[out, in]`, at most `ROWS_AT_ONCE` rows.
        prepared: of its inputs, for groups of that size.
        schemes: of one group size, all with a minimum or all without.
        passes: of coordinate descent behind it.
    """
    rounded = _round_rows(torch.from_numpy(weight), prepared, schemes, passes)
    found = []
    for place, scheme in enumerate(schemes):
        codes, scales, minima = (part[place].numpy() for part in rounded)
        minima = minima if scheme.has_minimum else None
        found.append(Quantized(codes=codes, scales=scales, minima=minima))
    return found


def _better_rows(
    weight: Floats, hessian: Tensor, scheme: Scheme, found: Quantized, nearest: Quantized
) -> Quantized:
    with np.errstate(all="ignore"):  # scales that overflow give rows that lose below
        ours = row_errors(weight, dequantize(found, scheme), hessian)
    theirs = row_errors(weight, dequantize(nearest, scheme), hessian)
    better = (ours < theirs)[:, None]
    return Quantized(
        codes=np.where(better, found.codes, nearest.codes),
        scales=np.where(better, found.scales, nearest.scales),
        minima=None
        if found.minima is None or nearest.minima is None
        else np.where(better, found.minima, nearest.minima),
    )


def row_errors(weight: Floats, rounded: Floats, hessian: Tensor) -> npt.NDArray[np.float64]:
    """`diag(ΔW·H·ΔWᵀ)` of weights `[out, in]`: the mean square error of each output, `[out]`."""
    parts = []
    for start in range(0, len(weight), ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        delta = torch.from_numpy(rounded[piece] - weight[piece])
        parts.append(((delta @ hessian) * delta).sum(1).double().numpy())
    # Rounding may leave a tiny error below zero.
    errors: npt.NDArray[np.float64] = np.maximum(np.concatenate(parts), 0.0)
    return errors


def _round_rows(
    weight: Tensor, prepared: RoundingOrder, schemes: Sequence[Scheme], passes: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """For each scheme codes uint8 `[rows, in]`, scales and minima `[rows, in / group]`."""
    order, factor, grid = prepared.order, prepared.factor, make_grid(schemes, len(weight))
    size = grid.group
    # [in, rows]: one column is one piece of memory.
    columns = weight.T[order].repeat(1, len(schemes)).contiguous()
    inputs, rows = columns.shape
    codes = torch.empty(inputs, rows, dtype=torch.int16)
    scales = torch.empty(inputs // size, rows, dtype=torch.float16)
    minima = torch.zeros(inputs // size, rows, dtype=grid.minimum_type)
    importance = factor.diagonal().square().reciprocal()
    places = order.tolist()
    for start in range(0, inputs, size):
        end, group = start + size, places[start] // size
        block, part = columns[start:end], factor[start:end, start:end]
        scale, minimum = _search(block, importance[start:end], grid)
        scales[group], minima[group] = scale, minimum
        step, low = scale.float(), minimum.float()
        inverse = reciprocal(step)
        losses = torch.empty_like(block)
        for i in range(size):
            code = nearest_codes(block[i], inverse, low, grid)
            codes[places[start + i]] = code
            lost = torch.sub(block[i], code.mul_(step), out=losses[i])
            if grid.affine:
                lost.sub_(low)
            lost.div_(part[i, i])
            if i + 1 < size:
                block[i + 1 :].addr_(part[i, i + 1 :], lost, alpha=-1)
        if end < inputs:
            columns[end:].addmm_(factor[start:end, end:].T, losses, alpha=-1)
    if passes:
        whole = weight.T.repeat(1, len(schemes)).contiguous()
        damped = prepared.hessian + prepared.damping * torch.eye(inputs)
        refine(whole, codes, scales, minima, damped, grid, passes)
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    each = rows // len(schemes)
    for i, scheme in enumerate(schemes):
        own = slice(i * each, (i + 1) * each)
        found[0].append((codes[:, own] + scheme.offset).to(torch.uint8).T.contiguous())
        found[1].append(scales[:, own].T.contiguous())
        found[2].append(minima[:, own].T.contiguous())
    return found


def search_scales(values: Tensor, importance: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and minimum of one group for each row, `[rows]`, of least weighted error.

    Each candidate cuts the grid a little shorter than the extremes ask for, as more bits want less, and
    has its scale and minimum fitted to its codes by least squares.

    Args:
        values: float32 `[group, rows]`.
        importance: float32 `[group]`, weights of the squared errors.
        scheme: a scheme with groups.
    """
    return _search(values, importance, make_grid([scheme], values.shape[1]))


def _search(values: Tensor, importance: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    best: tuple[Tensor, Tensor, Tensor] | None = None
    means = importance @ values
    for start, start_low in _starts(values, grid):
        scale, low = stored(start, start_low, grid)
        step, minimum = scale.float(), low.float()
        codes = nearest_codes(values, reciprocal(step), minimum, grid)
        best = _best(best, _error(values, codes, importance, step, minimum, grid), scale, low)
        step, minimum = _fit(values, codes, importance, means, step, minimum, grid)
        scale, low = stored(step, minimum, grid)
        step, minimum = scale.float(), low.float()
        codes = nearest_codes(values, reciprocal(step), minimum, grid)
        best = _best(best, _error(values, codes, importance, step, minimum, grid), scale, low)
    assert best is not None
    return best[1], best[2]


def _best(
    best: tuple[Tensor, Tensor, Tensor] | None, error: Tensor, scale: Tensor, low: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if best is None:
        return error, scale, low
    better = error < best[0]
    return (
        torch.where(better, error, best[0]),
        torch.where(better, scale, best[1]),
        torch.where(better, low, best[2]),
    )


def _starts(values: Tensor, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and minima to begin with, each float32 `[rows]`."""
    if grid.affine:
        low, high = values.amin(0), values.amax(0)
        span = high - low
        for shrink in grid.shrinks:
            yield span * (shrink / grid.high), low + span * ((1 - shrink) / 2)
        return
    extreme = values.gather(0, values.abs().argmax(0)[None])[0]
    nothing = torch.zeros_like(extreme)
    for shrink in grid.shrinks:
        # The longer side of the grid is the negative one; the scale's sign turns it round.
        yield extreme * (shrink / grid.low), nothing
        yield extreme * (shrink / grid.high), nothing


def _fit(
    values: Tensor,
    codes: Tensor,
    importance: Tensor,
    means: Tensor,
    scale: Tensor,
    minimum: Tensor,
    grid: Grid,
) -> tuple[Tensor, Tensor]:
    """Least squares for given codes; where they do not settle it, what was there before."""
    products, squares = importance @ (codes * values), importance @ codes.square()
    if not grid.affine:
        known = squares > 0
        return torch.where(known, products / torch.where(known, squares, 1.0), scale), minimum
    total, sums = importance.sum(), importance @ codes
    determinant = total * squares - sums.square()
    known = determinant > 1e-6 * total * squares
    divisor = torch.where(known, determinant, 1.0)
    fitted = (total * products - means * sums) / divisor
    step, _ = stored(torch.where(known, fitted, scale), minimum, grid)
    # The minimum is the best one for the scale as it is stored.
    low = (means - step.float() * sums) / total
    return step.float(), torch.where(known, low, minimum)


def _error(
    values: Tensor, codes: Tensor, importance: Tensor, step: Tensor, minimum: Tensor, grid: Grid
) -> Tensor:
    lost = torch.addcmul(values, codes, step[None], value=-1)
    if grid.affine:
        lost.sub_(minimum)
    # A scale too large for float16 never wins.
    return (importance @ lost.square_()).nan_to_num_(torch.inf)
