"""Which weight gets which precision: a multiple-choice knapsack, solved exactly.

Each weight takes exactly one of its choices; the sum of one quantity is limited, the sum of the other as
small as it can be (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11). HiGHS solves
it as a mixed-integer program, through `scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from gemcore.errors import GemError

MOST_SECONDS = 60.0


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

    Raises:
        GemError: the solver stopped without an answer.
    """
    smallest = sum(min(choice.bytes for choice in weight) for weight in choices)
    if smallest > most_bytes:
        return None
    # Sizes are whole blocks: in units of their common divisor the numbers stay small and exact.
    unit = math.gcd(*(choice.bytes for weight in choices for choice in weight)) or 1
    costs = [[choice.bytes // unit for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    return _solve(errors, costs, most_bytes // unit, tolerance=0.0)


def least_error_in_time(
    choices: Sequence[Sequence[Choice]], most_seconds: float
) -> list[int] | None:
    """As `least_error`, where the choices' seconds are limited."""
    if math.fsum(min(choice.seconds for choice in weight) for weight in choices) > most_seconds:
        return None
    times = [[choice.seconds for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    return _solve(errors, times, most_seconds, tolerance=0.0)


def least_bytes(choices: Sequence[Sequence[Choice]], most_error: float) -> list[int] | None:
    """For each weight the index of a choice: the fewest bytes with a total error of at most `most_error`.

    None where even the best choices do not reach it. Of several with as few bytes, one has the least error.

    Raises:
        GemError: the solver stopped without an answer.
    """
    if math.fsum(min(choice.error for choice in weight) for weight in choices) > most_error:
        return None
    unit = math.gcd(*(choice.bytes for weight in choices for choice in weight)) or 1
    costs = [[float(choice.bytes // unit) for choice in weight] for weight in choices]
    errors = [[choice.error for choice in weight] for weight in choices]
    found = _solve(costs, errors, most_error, tolerance=0.5)
    if found is None:
        return None
    return least_error(choices, sum(w[i].bytes for w, i in zip(choices, found, strict=True)))


def _solve(
    objective: list[list[float]], load: Sequence[Sequence[float]], most: float, *, tolerance: float
) -> list[int] | None:
    """Minimise the objective where the load is limited; `tolerance`: a gap that cannot matter."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    values = np.array([v for weight in objective for v in weight])
    loads = np.array([v for weight in load for v in weight], dtype=np.float64)
    # HiGHS has absolute tolerances: numbers near one keep them small beside every difference.
    size = np.abs(values).max() or 1.0
    weight_of = np.repeat(np.arange(len(objective)), [len(weight) for weight in objective])
    each = csr_array((np.ones(len(values)), (weight_of, np.arange(len(values)))))
    largest = loads.max() or 1.0
    limit = most
    while True:
        result = milp(
            values / size,
            integrality=np.ones(len(values)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(each, 1, 1),
                LinearConstraint(loads[None] / largest, -np.inf, limit / largest),
            ],
            options={
                "mip_rel_gap": tolerance / max(1.0, float(values.sum())),
                "time_limit": MOST_SECONDS,
            },
        )
        if result.x is None:
            raise GemError(f"the solver found no assignment of precisions: {result.message}")
        picked = [int(np.argmax(result.x[weight_of == i])) for i in range(len(objective))]
        over = math.fsum(load[i][k] for i, k in enumerate(picked)) - most
        if over <= 0:
            return picked
        # Within its tolerance the solver may pass the limit, by a hair: ask for a hair less.
        limit -= 2 * over
