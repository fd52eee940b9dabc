"""Which weight gets which precision: a multiple-choice knapsack, solved exactly.

Each weight takes exactly one of its choices; the sum of one quantity is limited, the sum of the other as
small as it can be (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11). HiGHS
(`scipy.optimize.milp`) finds the same plans, which the tests check, but takes seconds where this takes
tenths, which is long for a front of many sizes, and prints lines of its own to standard output, where the
JSON of `gem quantize` goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Choice:
    """One precision that a weight may have.

    Attributes:
        scheme: name of the packing scheme.
        bytes: packed size.
        error: what it is expected to cost, at least 0; errors of different weights add up.
        seconds: expected time in one token, where that is what is limited.
    """

    scheme: str
    bytes: int
    error: float
    seconds: float = 0.0


def least_error(choices: Sequence[Sequence[Choice]], most_bytes: int) -> list[int] | None:
    """For each weight the index of a choice: the least total error within `most_bytes` bytes.

    None where even the smallest choices do not fit.
    """
    smallest = sum(min(choice.bytes for choice in weight) for weight in choices)
    if smallest > most_bytes:
        return None
    # Sizes are whole blocks: in units of their common divisor the numbers stay small and exact.
    unit = math.gcd(*(choice.bytes for weight in choices for choice in weight)) or 1
    costs = [[choice.bytes // unit for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    return _solve(errors, costs, most_bytes // unit)


def least_error_in_time(
    choices: Sequence[Sequence[Choice]], most_seconds: float
) -> list[int] | None:
    """As `least_error`, where the choices' seconds are limited."""
    if math.fsum(min(choice.seconds for choice in weight) for weight in choices) > most_seconds:
        return None
    times = [[choice.seconds for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    return _solve(errors, times, most_seconds)


def least_bytes(choices: Sequence[Sequence[Choice]], most_error: float) -> list[int] | None:
    """For each weight the index of a choice: the fewest bytes with a total error of at most `most_error`.

    None where even the best choices do not reach it. Of several with as few bytes, one has the least error.
    """
    if math.fsum(min(choice.error for choice in weight) for weight in choices) > most_error:
        return None
    unit = math.gcd(*(choice.bytes for weight in choices for choice in weight)) or 1
    costs = [[float(choice.bytes // unit) for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    found = _solve(costs, errors, most_error)
    return least_error(choices, sum(w[i].bytes for w, i in zip(choices, found, strict=True)))


def _solve(
    objective: Sequence[Sequence[float]], load: Sequence[Sequence[float]], most: float
) -> list[int]:
    """Minimise the sum of the objective where the sum of the load is at most `most`, which must be possible.

    Dynamic programming: weight by weight, the sums that can be had so far, without those that others beat in
    both. The Lagrangian relaxation says for each how little the rest can add at least; sums that cannot end
    better than the best solution known are dropped, which are nearly all.
    """
    import numpy as np

    kept = [_useful(*pair) for pair in zip(objective, load, strict=True)]
    values = [np.array([o[i] for i in k], float) for o, k in zip(objective, kept, strict=True)]
    loads = [np.array([w[i] for i in k], float) for w, k in zip(load, kept, strict=True)]
    # The largest steps first: what they leave is evened out with the small ones.
    order = sorted(range(len(kept)), key=lambda g: -float(np.ptp(loads[g])))
    price = _price(values, loads, most)
    costs = [v + price * w for v, w in zip(values, loads, strict=True)]
    cheapest = [int(np.lexsort((w, c))[0]) for c, w in zip(costs, loads, strict=True)]
    # What the weights that are still to come take: at least, and in the relaxation's solution.
    least = sum(float(w.min()) for w in loads)
    bound = sum(float(c.min()) for c in costs)
    easy_value = sum(float(v[i]) for v, i in zip(values, cheapest, strict=True))
    easy_load = sum(float(w[i]) for w, i in zip(loads, cheapest, strict=True))
    # The smallest loads are a solution; those of the relaxation, where they fit, a better one.
    best = sum(float(v[int(w.argmin())]) for v, w in zip(values, loads, strict=True))
    if easy_load <= most:
        best = min(best, easy_value)
    sums, taken = np.zeros(1), np.zeros(1)
    steps: list[tuple[Any, Any]] = []
    for g in order:
        least -= float(loads[g].min())
        bound -= float(costs[g].min())
        easy_value -= float(values[g][cheapest[g]])
        easy_load -= float(loads[g][cheapest[g]])
        parent = np.repeat(np.arange(len(sums)), len(values[g]))
        choice = np.tile(np.arange(len(values[g])), len(sums))
        sums = (sums[:, None] + values[g]).ravel()
        taken = (taken[:, None] + loads[g]).ravel()
        # Sums in different orders differ in the last bits: never drop for those.
        slack = 1e-12 * (abs(best) + price * most)
        ready = taken + easy_load <= most
        if ready.any():
            best = min(best, float((sums[ready] + easy_value).min()))
        hopeful = (taken + least <= most * (1 + 1e-12)) & (
            sums + price * (taken - most) + bound <= best + slack
        )
        place = np.flatnonzero(hopeful)
        place = place[np.lexsort((sums[place], taken[place]))]
        lowest = np.minimum.accumulate(sums[place])
        place = place[np.concatenate([[True], sums[place][1:] < lowest[:-1]])]
        sums, taken = sums[place], taken[place]
        steps.append((parent[place].astype(np.int32), choice[place].astype(np.int16)))
    picked = [0] * len(kept)
    # Loads of whole numbers are exact; others may pass the limit by a last bit.
    fitting = np.flatnonzero(taken <= most)
    at = int(fitting[sums[fitting].argmin()]) if len(fitting) else int(taken.argmin())
    for g, (parent, choice) in zip(reversed(order), reversed(steps), strict=True):
        picked[g] = kept[g][int(choice[at])]
        at = int(parent[at])
    return picked


def _useful(objective: Sequence[float], load: Sequence[float]) -> list[int]:
    """The choices that no other one beats in both."""
    best, kept = math.inf, []
    for i in sorted(range(len(load)), key=lambda i: (load[i], objective[i])):
        if objective[i] < best:
            best = objective[i]
            kept.append(i)
    return kept


def _price(values: Sequence[Any], loads: Sequence[Any], most: float) -> float:
    """The price of the load at which the Lagrangian bound is highest, found by bisection."""

    def too_much(price: float) -> bool:
        taken = 0.0
        for value, load in zip(values, loads, strict=True):
            cost = value + price * load
            taken += float(load[cost <= cost.min()].min())
        return taken > most

    if not too_much(0.0):
        return 0.0
    low, high = 0.0, 1e-300 + sum(float(v.max()) for v in values) / max(most, 1e-300)
    for _ in range(200):
        if not too_much(high):
            break
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return high
