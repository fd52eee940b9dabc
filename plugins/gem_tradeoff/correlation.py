"""Spearman's rank correlation, with ties and a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gem_tradeoff.bootstrap import RESAMPLES, Estimate, Floats, estimate
from gemcore.errors import UsageError

_CELLS = 1 << 22
"""How many pairs of values are compared at once, which bounds the memory."""


def spearman(
    x: Sequence[float] | npt.ArrayLike,
    y: Sequence[float] | npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Rank correlation of pairs, with a 95 % interval from resampling the pairs.

    Spearman, The proof and measurement of association between two things (1904): Pearson's
    correlation of the ranks, where ties share the mean of their ranks. Resamples in which all x or
    all y are equal have no correlation and are not counted.

    Args:
        x, y: `[pairs]`, at least 3.

    Raises:
        UsageError: too few pairs, unequal lengths, no finite number, or all x or all y are equal.
    """
    pair = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    for name, values in zip("xy", pair, strict=True):
        if values.ndim != 1 or not np.isfinite(values).all():
            raise UsageError(f"{name} must be a list of finite numbers, and is {values.tolist()}")
        if values.size and (values == values[0]).all():
            raise UsageError(
                f"all {name} are {values[0]:g}: ranks that do not differ correlate with nothing"
            )
    if len(pair[0]) != len(pair[1]) or len(pair[0]) < 3:
        raise UsageError(
            f"a rank correlation needs at least 3 pairs: there are {len(pair[0])} x and "
            f"{len(pair[1])} y"
        )
    generator = np.random.default_rng(seed)
    count = len(pair[0])
    drawn = generator.integers(0, count, size=(resamples, count))
    index = np.vstack([np.arange(count), drawn])
    return estimate(spearman_rows(pair[0][index], pair[1][index]))


def spearman_rows(x: Floats, y: Floats) -> Floats:
    """Rank correlation of each row of x with the same row of y; NaN where a row is constant.

    Of use for resamples made elsewhere, such as scores `[1 + resamples, models]` of resampled
    items: `bootstrap.estimate` of the result gives the interval.

    Args:
        x, y: `[rows, pairs]`; one may also have a single row, which is taken with every other.

    Returns:
        `[rows]`.
    """
    ranks = [mean_ranks(np.atleast_2d(values)) for values in (x, y)]
    x, y = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    above = (x * y).sum(axis=-1)
    below = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    result = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return np.asarray(np.clip(result, -1, 1))


def mean_ranks(values: Floats) -> Floats:
    """Ranks from 1 within each row of `[rows, n]`; equal values share the mean of their ranks."""
    count = values.shape[-1]
    step = max(1, _CELLS // max(1, count * count))
    ranks = np.empty(values.shape)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        mine, other = part[:, :, None], part[:, None, :]
        lower, equal = (other < mine).sum(axis=-1), (other == mine).sum(axis=-1)
        ranks[start : start + step] = lower + (equal + 1) / 2
    return ranks
