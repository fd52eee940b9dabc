"""The learning rate over a training."""

from __future__ import annotations

import math

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


def learning_rate(step: int, steps: int, peak: float, floor: float = 0.1) -> float:
    """Learning rate of a step: a straight rise, then half a cosine down to `floor` of the peak.

    Args:
        step: from 0.
        steps: in all.
        peak: the highest rate.
        floor: share of the peak at the end (SGDR, arXiv 1608.03983, without restarts).

    >>> [round(learning_rate(step, 40, 1.0), 3) for step in (0, 1, 2, 20, 39)]
    [0.5, 1.0, 1.0, 0.587, 0.102]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return peak * (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))
