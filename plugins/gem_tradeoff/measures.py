"""The measures of the trade-off between domains, as plain formulas over arrays.

Gain, Domain Specialization Index (DSI), Generalization Gap (GG) and Cross-Domain Transfer Ratio
(CDTR) are named, without formulas, by "Fragile Mastery: Are Domain-Specific Trade-Offs Undermining
On-Device Language Models?" (arXiv 2503.22698). The definitions here are GEM's own.

Written S_b for a model's score on domain b, M_0 for the base model, M_a for the model specialised
for domain a. A score is either above-chance accuracy, where more is better, or bits per byte, where
less is better (`lower_is_better`); every measure has the same sense for both. Arrays may have any
number of leading axes, such as one for resamples; the last axis is the domains.
"""

from __future__ import annotations

import numpy as np

from gem_tradeoff.bootstrap import Floats
from gemcore.errors import GemError

LEAST_DENOMINATOR = 0.01
"""Nothing is divided by a score below this: 1 % of the way from chance to perfection, or 0.01 bits."""


def gains(base: Floats, special: Floats, *, lower_is_better: bool = False) -> Floats:
    """Relative gain on each domain, `G(a→b) = (S_b(M_a) - S_b(M_0)) / S_b(M_0)`; above 0 is better.

    Of bits per byte B, the sign is turned: `G(a→b) = (B_b(M_0) - B_b(M_a)) / B_b(M_0)`.

    Args:
        base, special: scores `[..., domains]` of M_0 and of M_a.

    Returns:
        `[..., domains]`.

    Raises:
        GemError: a score of the base is too small to divide by.
    """
    _check_denominators(base)
    change = base - special if lower_is_better else special - base
    return np.asarray(change / base)


def specialization_index(gain: Floats, own: int) -> Floats:
    """Domain Specialization Index, `DSI(a) = G(a→a) - mean over b≠a of G(a→b)`.

    0 where specialising moved every domain alike. Defined by GEM; named in arXiv 2503.22698.

    Args:
        gain: `[..., domains]`, as `gains` gives it.
        own: index of the domain a.

    Returns:
        `[...]`.
    """
    return np.asarray(gain[..., own] - _elsewhere(gain, own).mean(axis=-1))


def generalization_gap(
    base: Floats, special: Floats, own: int, *, lower_is_better: bool = False
) -> Floats:
    """Generalization Gap, by how much the lead of the home domain over the others has grown.

    `GG(a) = [S_a(M_a) - mean over b≠a of S_b(M_a)] - [S_a(M_0) - mean over b≠a of S_b(M_0)]`, in the
    unit of the scores; of bits per byte with the sign turned. There is no denominator, so it is
    defined where the relative measures are not. Defined by GEM; named in arXiv 2503.22698.

    Args:
        base, special: scores `[..., domains]` of M_0 and of M_a.
        own: index of the domain a.

    Returns:
        `[...]`.
    """
    change = base - special if lower_is_better else special - base
    return np.asarray(change[..., own] - _elsewhere(change, own).mean(axis=-1))


def transfer_ratio(
    base: Floats, special: Floats, own: int, *, lower_is_better: bool = False
) -> Floats:
    """Cross-Domain Transfer Ratio, `CDTR(a) = mean over b≠a of S_b(M_a) / S_b(M_0)`.

    1 where nothing was lost elsewhere. Of bits per byte the quotient is turned over,
    `B_b(M_0) / B_b(M_a)`, so that above 1 is better there too. Defined by GEM; named in
    arXiv 2503.22698.

    Args:
        base, special: scores `[..., domains]` of M_0 and of M_a.
        own: index of the domain a.

    Returns:
        `[...]`.

    Raises:
        GemError: a score that is to be divided by is too small.
    """
    above, below = (base, special) if lower_is_better else (special, base)
    above, below = _elsewhere(above, own), _elsewhere(below, own)
    _check_denominators(below)
    return np.asarray((above / below).mean(axis=-1))


def forgetting(gain: Floats, own: int) -> Floats:
    """Mean relative loss elsewhere, `F(a) = mean over b≠a of max(0, -G(a→b))`; 0 is none.

    Gains do not make up for losses, so noise alone gives a value above 0: read it with its interval
    (`bootstrap.estimate_of_losses`). Defined by GEM; arXiv 2503.22698 reports "forgetting" without
    a formula.

    Args:
        gain: `[..., domains]`, as `gains` gives it.
        own: index of the domain a.

    Returns:
        `[...]`.
    """
    return np.asarray(np.maximum(0.0, -_elsewhere(gain, own)).mean(axis=-1))


def _elsewhere(values: Floats, own: int) -> Floats:
    """All domains but one's own; GemError where there is no other."""
    count = values.shape[-1]
    if count < 2:
        raise GemError(f"the trade-off needs at least 2 domains to compare, and there is {count}")
    return np.delete(values, own, axis=-1)


def _check_denominators(values: Floats) -> None:
    least = float(np.min(values))
    if not least >= LEAST_DENOMINATOR:
        raise GemError(
            f"a score of {least:.4g} is too near zero to divide by (the least is "
            f"{LEAST_DENOMINATOR:g})"
        )
