"""Brittleness, and its correlation with compression, as plain formulas over arrays.

Written `G_d(p)` for the relative gain of precision p on domain d against the reference precision
(`gem_tradeoff.measures.gains`: above 0 is better, in scores as in bits per byte). Arrays have one row
for the sample itself and one for each bootstrap resample of the items.
"""

from __future__ import annotations

import numpy as np

from gem_tradeoff.bootstrap import Floats
from gem_tradeoff.correlation import spearman_rows


def spread(gain: Floats) -> Floats:
    """The standard deviation over domains of the relative gain, `[rows, domains] -> [rows]`.

    0 where a precision costs every domain the same share; with n - 1 in the denominator.
    """
    return np.asarray(gain.std(axis=-1, ddof=1))


def noise(gain: Floats) -> float:
    """The spread that the finite number of items gives by itself.

    The root of the mean, over resamples, of the variance over domains of `G_d* - G_d`: how far a
    resample's gains lie from the sample's (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 10: the bootstrap estimate of bias, here of the squared spread).

    Args:
        gain: `[1 + resamples, domains]`.
    """
    return float(np.sqrt((gain[1:] - gain[0]).var(axis=-1, ddof=1).mean()))


def brittleness(gain: Floats) -> Floats:
    """How unevenly over domains a precision costs, `sqrt(max(0, spread² - noise²))`; 0 is evenly.

    A model that loses 2 % everywhere is weaker, not more brittle; one that loses nothing but a tenth
    in one domain is. Answers that flip at random spread the gains too, the more the coarser the
    precision, which is why the noise is taken off. A resample has that noise twice, its own and the
    sample's, so twice is taken off there. Defined by GEM.

    Args:
        gain: `[1 + resamples, domains]`, at least 2 domains.

    Returns:
        `[1 + resamples]`, in shares of the reference's score.
    """
    squares = spread(gain) ** 2 - 2 * noise(gain) ** 2
    squares[0] = spread(gain[:1])[0] ** 2 - noise(gain) ** 2
    return np.asarray(np.sqrt(np.maximum(0.0, squares)))


def worst_loss(gain: Floats) -> Floats:
    """The relative loss of the domain that lost most, `[rows, domains] -> [rows]`."""
    return np.asarray(-gain.min(axis=-1))


def mean_loss(gain: Floats) -> Floats:
    """The mean over domains of the relative loss, `[rows, domains] -> [rows]`."""
    return np.asarray(-gain.mean(axis=-1))


def rank_correlation(compression: Floats, measure: Floats) -> Floats:
    """Spearman's correlation over precisions, for every resample of the items.

    Args:
        compression: `[precisions]`, at least 3: how many times smaller than the reference.
        measure: `[1 + resamples, precisions]`.

    Returns:
        `[1 + resamples]`; NaN where all precisions measure the same.
    """
    return spearman_rows(compression[None, :], measure)
