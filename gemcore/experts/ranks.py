"""Giving an expert's deltas another rank: exactly where that is larger, as near as can be where smaller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, UsageError
from gemcore.experts.card import MAX_RANK
from gemcore.experts.files import Expert

Doubles = npt.NDArray[np.float64]


@attrs.frozen(kw_only=True)
class RankChange:
    """What another rank did to an expert's deltas.

    Attributes:
        before, after: the ranks.
        error: Frobenius norm of the change of all deltas over that of the deltas, rounding to float16
            included; 0 where nothing changed.
        unit_errors: the same for each unit.
    """

    before: int
    after: int
    error: float
    unit_errors: Mapping[str, float]

    @property
    def worst_unit(self) -> str:
        """The unit whose delta changed most."""
        return max(self.unit_errors, key=lambda unit: self.unit_errors[unit])


def to_rank(expert: Expert, rank: int) -> tuple[Expert, RankChange]:
    """Give all deltas of `expert` the rank `rank`.

    A larger rank adds zeros, which changes nothing. A smaller one keeps the largest singular values of
    each delta, which is the nearest matrix of that rank (Eckart and Young, 1936).

    Returns:
        The expert, not written anywhere, and what the change did; `scores` of its card keep a note of
        a change that is not exact.

    Raises:
        UsageError: the rank is not from 1 to `MAX_RANK`.
    """
    if not 1 <= rank <= MAX_RANK:
        raise UsageError(f"the rank must be from 1 to {MAX_RANK}, not {rank}")
    before = expert.card.rank
    tensors: dict[str, npt.NDArray[np.float16]] = {}
    changed = whole = 0.0
    errors: dict[str, float] = {}
    for unit in expert.card.units:
        down, up = expert.tensors[f"{unit}.down"], expert.tensors[f"{unit}.up"]
        if rank >= before:
            new_down, new_up = padded(down, up, rank)
        else:
            new_down, new_up = halves(*truncated(down, up, rank), what=f"unit '{unit}'")
        tensors[f"{unit}.down"], tensors[f"{unit}.up"] = new_down, new_up
        size = product_norm(down, up)
        change = 0.0 if rank >= before else change_norm((down, up), (new_down, new_up))
        errors[unit] = change / size if size else 0.0
        changed, whole = changed + change**2, whole + size**2
    error = math.sqrt(changed / whole) if whole else 0.0
    note = {"from_rank": before, "relative_error": float(f"{error:.3g}")}
    scores = expert.card.scores if rank >= before else {**expert.card.scores, "converted": note}
    card = attrs.evolve(expert.card, rank=rank, scores=scores, sha256="")
    result = RankChange(before=before, after=rank, error=error, unit_errors=errors)
    return Expert(card=card, tensors=tensors), result


def truncated(down: npt.NDArray[Any], up: npt.NDArray[Any], rank: int) -> tuple[Doubles, Doubles]:
    """The factors of the nearest matrix of rank `rank` to `down @ up`.

    Args:
        down: `[in, inner]`.
        up: `[inner, out]`.
        rank: padded with zeros where it is above the rank of the product's shape.

    Returns:
        float64 `[in, rank]` and `[rank, out]`, each with the root of the singular values.
    """
    # The product has in * out values; its singular values are those of a small core between two QRs.
    left, left_core = np.linalg.qr(down.astype(np.float64))
    right, right_core = np.linalg.qr(up.astype(np.float64).T)
    u, singular, v = np.linalg.svd(left_core @ right_core.T, full_matrices=False)
    kept = min(rank, singular.size)
    roots = np.sqrt(singular[:kept])
    new_down, new_up = np.zeros((down.shape[0], rank)), np.zeros((rank, up.shape[1]))
    new_down[:, :kept] = (left @ u[:, :kept]) * roots
    new_up[:kept] = roots[:, None] * (v[:kept] @ right.T)
    return new_down, new_up


def halves(
    down: npt.NDArray[Any], up: npt.NDArray[Any], *, what: str
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Round both factors of a delta to float16, after sharing out their sizes.

    Each component's column and row are scaled against each other by a power of two, so that both have
    about the same largest value: their product stays exactly the same, and neither leaves the range of
    float16 while the other has room.

    Raises:
        FormatError: a value is not finite, or too large for float16 even so; `what` is named.
    """
    down, up = down.astype(np.float64), up.astype(np.float64)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise FormatError(f"{what} holds NaN or infinite values")
    left, right = np.abs(down).max(axis=0), np.abs(up).max(axis=1)
    both = (left > 0) & (right > 0)
    exponent = np.zeros(left.shape, dtype=np.int64)
    exponent[both] = np.rint((np.log2(right[both]) - np.log2(left[both])) / 2).astype(np.int64)
    down = np.ldexp(down * both, exponent)
    up = np.ldexp(up * both[:, None], -exponent[:, None])
    largest = max(np.abs(down).max(initial=0), np.abs(up).max(initial=0))
    if largest > np.finfo(np.float16).max:
        raise FormatError(
            f"{what} has deltas too large for float16: a factor reaches {largest:.3g}"
        )
    return down.astype(np.float16), up.astype(np.float16)


def padded(
    down: npt.NDArray[np.float16], up: npt.NDArray[np.float16], rank: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """The same delta with a rank that is at least its own: zeros are added to both factors."""
    more = rank - down.shape[1]
    return np.pad(down, ((0, 0), (0, more))), np.pad(up, ((0, more), (0, 0)))


def product_norm(down: npt.NDArray[Any], up: npt.NDArray[Any]) -> float:
    """Frobenius norm of `down @ up`, without making the product; exact to about 1e-8 of its terms."""
    left, right = down.astype(np.float64), up.astype(np.float64)
    return math.sqrt(max(float(np.sum((left.T @ left) * (right @ right.T))), 0.0))


def change_norm(
    before: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    after: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> float:
    """Frobenius norm of the difference of two products `down @ up`."""
    down = np.concatenate([before[0], after[0]], axis=1, dtype=np.float64)
    up = np.concatenate([before[1], -after[1]], axis=0, dtype=np.float64)
    return product_norm(down, up)
