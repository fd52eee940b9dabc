"""The bootstrap: how often each item counts in each resample, and intervals from resamples."""

from __future__ import annotations

import zlib

import attrs
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_TAILS = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)


@attrs.frozen
class Estimate:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def item_weights(name: str, items: int, resamples: int, seed: int) -> Floats:
    """Draw resamples of a task's items: how often each item was drawn.

    Row 0 is the sample itself, every item once, so that one product gives point and resamples.
    The numbers depend on the task's name and the seed alone: they are the same for every model,
    which pairs them, and whatever other tasks there are.

    Returns:
        float64 `[1 + resamples, items]`; every row sums to `items`.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = generator.integers(0, items, size=(resamples, items))
    drawn += np.arange(resamples)[:, None] * items
    weights = np.ones((1 + resamples, items))
    weights[1:] = np.bincount(drawn.ravel(), minlength=resamples * items).reshape(resamples, items)
    return weights


def quotients(weights: Floats, numerators: Floats, denominators: Floats) -> Floats:
    """Scores of resamples, each a quotient of weighted sums over items; 0 where that is 0 / 0.

    Args:
        weights: `[resamples, items]`.
        numerators, denominators: `[models, items]`.

    Returns:
        `[resamples, models]`.
    """
    above, below = weights @ numerators.T, weights @ denominators.T
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def estimate(values: Floats) -> Estimate:
    """The first of the values `[1 + resamples]`, with the percentile interval of the others.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Values that are NaN,
    where a resample leaves nothing to compute, are not counted.
    """
    low, high = np.nanpercentile(values[1:], _TAILS)
    return Estimate(float(values[0]), float(low), float(high))


def estimate_of_losses(losses: Floats, gain: Floats) -> Estimate:
    """The interval of a mean of positive parts, `mean(max(0, -gain))`, which noise only raises.

    The percentile interval would nearly always lie above 0. The upper end is the percentile's, which
    errs on the safe side. The lower end is the larger of two bounds that noise does not raise, each
    at half the tail (Bonferroni): the mean loss if gains made up for losses, which is never more
    than the mean of positive parts; and the positive parts of what every domain lost at least, with
    simultaneous bounds from the largest standardised deviation of a resample.

    Args:
        losses: `[1 + resamples]`, row 0 of the sample itself.
        gain: `[1 + resamples, domains]`, of which `losses` are the means of positive parts.
    """
    level = 100 - _TAILS[0] / 2
    together = -float(np.percentile(gain[1:].mean(axis=-1), level))
    spread = gain[1:].std(axis=0)
    fall = np.divide(gain[0] - gain[1:], spread, out=np.zeros_like(gain[1:]), where=spread > 0)
    reach = max(0.0, float(np.percentile(fall.max(axis=-1), level)))
    apart = float(np.maximum(0.0, -(gain[0] + reach * spread)).mean())
    value = float(losses[0])
    low = min(value, max(0.0, together, apart))
    return Estimate(value, low, max(value, estimate(losses).high))
