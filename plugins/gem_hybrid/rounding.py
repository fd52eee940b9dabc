"""Calibrated rounding: GPTQ in the grid of any group-wise scheme, with a search for the scales.

GPTQ (arXiv 2210.17323) rounds the columns of a weight one after the other, and moves what each one loses
into the columns that are still to come, as the Cholesky factor of the inverse Hessian says. Columns that
matter most come first ("activation order"). Scales belong to fixed groups of columns, so here the
groups are ordered, and the columns inside each; the scales of a group are chosen when its turn comes, for
the weights as they then are. What comes out are codes of the scheme itself, for the packers and kernels
that exist.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gemcore.errors import UsageError
from gemcore.packing import GROUP, Quantized, Scheme, check_finite, dequantize, quantize

DAMPING = 0.01
"""What is added to the Hessian's diagonal, in parts of its mean."""

ROWS_AT_ONCE = 8192
CANDIDATES = 9
_MOST_DAMPING = 1e4

Floats = npt.NDArray[np.float32]


@attrs.frozen(kw_only=True, eq=False)
class RoundingOrder:
    """What GPTQ needs to know of the inputs of a weight.

    Attributes:
        hessian: float32 `[in, in]`, the mean of `x xᵀ`, not damped.
        order: int64 `[in]`, columns in the order of their rounding; each `group` are one group.
        factor: float32 `[in, in]` in that order, the upper Cholesky factor of the damped inverse.
        group: columns that share a scale.
    """

    hessian: Tensor
    order: Tensor
    factor: Tensor
    group: int


def rounding_order(hessian: Tensor, damping: float = DAMPING, group: int = GROUP) -> RoundingOrder:
    """Prepare the rounding of weights `[out, in]` whose inputs have this Hessian `[in, in]`.

    `group` columns share a scale, as the scheme says.

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
    groups = diagonal.reshape(-1, group)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    first = groups.mean(1).argsort(descending=True, stable=True)
    order = (inside + group * torch.arange(len(groups))[:, None])[first].reshape(-1)
    turned = hessian.double()[order][:, order]
    # Nothing at all is known of weights whose inputs are all zero: they are rounded to nearest.
    unit = float(diagonal.mean()) or 1.0
    while damping < _MOST_DAMPING:
        damped = turned + torch.eye(len(order), dtype=torch.float64) * (damping * unit)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return RoundingOrder(
                    hessian=hessian, order=order, factor=upper.float(), group=group
                )
        damping = max(10 * damping, 1e-6)
    raise UsageError("the calibration text gives activations too extreme to calibrate with")


def round_calibrated(weight: Floats, prepared: RoundingOrder, scheme: Scheme) -> Quantized:
    """Round a weight `[out, in]` to codes of `scheme` with the least error that GPTQ finds.

    No row has a larger error `ΔW·H·ΔWᵀ` than `gemcore.packing.quantize`, round-to-nearest, gives it:
    where GPTQ does worse, that row is taken.

    Raises:
        UsageError: the weight is not finite, or too large for float16 scales.
    """
    check_finite(weight)
    nearest = quantize(weight, scheme)
    rounded = [
        _round_rows(torch.from_numpy(weight[start : start + ROWS_AT_ONCE]), prepared, scheme)
        for start in range(0, len(weight), ROWS_AT_ONCE)
    ]
    codes, scales, minima = (
        np.concatenate([part[i].numpy() for part in rounded]) for i in range(3)
    )
    found = Quantized(codes=codes, scales=scales, minima=minima if scheme.has_minimum else None)
    with np.errstate(all="ignore"):  # scales that overflow give rows that lose below
        ours = row_errors(weight, dequantize(found, scheme), prepared.hessian)
    theirs = row_errors(weight, dequantize(nearest, scheme), prepared.hessian)
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
    weight: Tensor, prepared: RoundingOrder, scheme: Scheme
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes uint8 `[rows, in]`, scales and minima float16 `[rows, in / group]`."""
    order, factor, size = prepared.order, prepared.factor, prepared.group
    columns = weight.T[order].contiguous()  # [in, rows]: one column is one piece of memory
    inputs, rows = columns.shape
    codes = torch.empty(inputs, rows, dtype=torch.uint8)
    scales = torch.empty(inputs // size, rows, dtype=torch.float16)
    minima = torch.zeros(inputs // size, rows, dtype=torch.float16)
    importance = factor.diagonal().square().reciprocal()
    for start in range(0, inputs, size):
        end, group = start + size, int(order[start]) // size
        block, part = columns[start:end], factor[start:end, start:end]
        scale, minimum = search_scales(block, importance[start:end], scheme)
        scales[group], minima[group] = scale, minimum
        step, low = scale.float(), minimum.float()
        inverse = _inverse(step)
        losses = torch.empty_like(block)
        for i in range(size):
            code = _codes(block[i], inverse, low, scheme)
            codes[int(order[start + i])] = code.to(torch.uint8)
            torch.sub(block[i], (code - scheme.offset) * step + low, out=losses[i])
            losses[i] /= part[i, i]
            if i + 1 < size:
                block[i + 1 :].addr_(part[i, i + 1 :], losses[i], alpha=-1)
        if end < inputs:
            columns[end:].addmm_(factor[start:end, end:].T, losses, alpha=-1)
    return codes.T.contiguous(), scales.T.contiguous(), minima.T.contiguous()


def search_scales(values: Tensor, importance: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and minimum of one group for each row, float16 `[rows]`, of least weighted error.

    Each candidate cuts the grid a little shorter than the extremes ask for, as more bits want less, and
    has its scale and minimum fitted to its codes by least squares.

    Args:
        values: float32 `[group, rows]`.
        importance: float32 `[group]`, weights of the squared errors.
        scheme: a scheme with groups.
    """
    weights = importance[:, None]
    shrinks = torch.linspace(1, 1 - 2 ** (-scheme.bits / 2), CANDIDATES).tolist()
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for scale, minimum in _starts(values, shrinks, scheme):
        codes = _codes(values, _inverse(scale), minimum, scheme) - scheme.offset
        fitted = _fit(values, codes, weights, scale, minimum, scheme.has_minimum)
        for step, low in ((scale, minimum), fitted):
            halves, lows = step.half(), low.half()
            error = _error(values, weights, halves.float(), lows.float(), scheme)
            if best is None:
                best = error, halves, lows
                continue
            better = error < best[0]
            best = (
                torch.where(better, error, best[0]),
                torch.where(better, halves, best[1]),
                torch.where(better, lows, best[2]),
            )
    assert best is not None
    return best[1], best[2]


def _starts(values: Tensor, shrinks: list[float], scheme: Scheme) -> Any:
    """Scales and minima to begin with, each float32 `[rows]`."""
    top = 2**scheme.bits - 1
    if scheme.has_minimum:
        low, high = values.amin(0), values.amax(0)
        for shrink in shrinks:
            cut = (high - low) * ((1 - shrink) / 2)
            yield (high - low) * (shrink / top), low + cut
        return
    extreme = values.gather(0, values.abs().argmax(0)[None])[0]
    nothing = torch.zeros_like(extreme)
    positive = top - scheme.offset
    for shrink in shrinks:
        # The longer side of the grid is the negative one; the scale's sign turns it round.
        if _lowest(scheme) == 0:
            yield extreme * (-shrink / scheme.offset), nothing
        yield extreme * (shrink / positive), nothing


def _fit(
    values: Tensor, codes: Tensor, weights: Tensor, scale: Tensor, minimum: Tensor, affine: bool
) -> tuple[Tensor, Tensor]:
    """Least squares for given codes; where they do not settle it, what was there before."""
    weighted = weights * codes
    products, squares = (weighted * values).sum(0), (weighted * codes).sum(0)
    if not affine:
        known = squares > 0
        return torch.where(known, products / torch.where(known, squares, 1.0), scale), minimum
    total, sums, means = weights.sum(), weighted.sum(0), (weights * values).sum(0)
    determinant = total * squares - sums.square()
    known = determinant > 1e-6 * total * squares
    divisor = torch.where(known, determinant, 1.0)
    fitted = (
        (total * products - means * sums) / divisor,
        (squares * means - sums * products) / divisor,
    )
    return torch.where(known, fitted[0], scale), torch.where(known, fitted[1], minimum)


def _error(
    values: Tensor, weights: Tensor, scale: Tensor, minimum: Tensor, scheme: Scheme
) -> Tensor:
    codes = _codes(values, _inverse(scale), minimum, scheme)
    lost = values - ((codes - scheme.offset) * scale + minimum)
    # A scale too large for float16 never wins.
    return (weights * lost.square()).sum(0).nan_to_num(torch.inf)


def _codes(values: Tensor, inverse: Tensor, minimum: Tensor, scheme: Scheme) -> Tensor:
    codes = ((values - minimum) * inverse).round_().add_(scheme.offset)
    return codes.clamp_(_lowest(scheme), 2**scheme.bits - 1)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale != 0, 1 / torch.where(scale != 0, scale, 1.0), 0.0)


def _lowest(scheme: Scheme) -> int:
    """The lowest code: with 8 bits and no minimum the grid is symmetric, as it is to the nearest."""
    return 1 if scheme.bits == 8 and scheme.offset else 0
