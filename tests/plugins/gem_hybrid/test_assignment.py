"""The knapsack against trying everything."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from gem_hybrid.assignment import Choice, least_bytes, least_error

choices = st.builds(
    Choice,
    scheme=st.just("x"),
    bytes=st.integers(1, 60).map(lambda n: 32 * n),
    error=st.one_of(st.just(0.0), st.floats(1e-6, 1.0)),
)
problems = st.lists(st.lists(choices, min_size=1, max_size=4), min_size=1, max_size=5)


def total(problem, picked):
    chosen = [unit[i] for unit, i in zip(problem, picked, strict=True)]
    return sum(c.bytes for c in chosen), math.fsum(c.error for c in chosen)


def everything(problem):
    return [total(problem, p) for p in itertools.product(*(range(len(unit)) for unit in problem))]


@given(problems, st.integers(0, 9000))
@settings(max_examples=60)
def test_least_error_is_the_least(problem, budget):
    possible = [error for size, error in everything(problem) if size <= budget]
    picked = least_error(problem, budget)
    if not possible:
        assert picked is None
        return
    size, error = total(problem, picked)
    assert size <= budget
    assert math.isclose(error, min(possible), rel_tol=1e-9, abs_tol=2e-6)


@given(problems, st.floats(0, 4))
@settings(max_examples=60)
def test_least_bytes_are_the_fewest(problem, most):
    possible = [(size, error) for size, error in everything(problem) if error <= most]
    picked = least_bytes(problem, most)
    if not possible:
        assert picked is None
        return
    size, error = total(problem, picked)
    assert error <= most
    assert size == min(size for size, _ in possible)


def by_highs(problem, budget):
    """The least error by another solver, which is exact within its tolerances."""
    errors, sizes = (
        np.array([getattr(c, name) for unit in problem for c in unit], float)
        for name in ("error", "bytes")
    )
    places = np.repeat(np.arange(len(problem)), [len(unit) for unit in problem])
    each = (places[None] == np.arange(len(problem))[:, None]).astype(float)
    solved = milp(
        errors,
        integrality=np.ones(len(errors)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(each, 1, 1), LinearConstraint(sizes[None], -np.inf, budget)],
        options={"mip_rel_gap": 0.0},
    )
    assert solved.success
    return solved.fun


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_a_real_size_is_solved_as_highs_does(share):
    generator = np.random.default_rng(7)
    problem = []
    for _ in range(40):
        size, error = 16 * int(generator.integers(20, 200)), float(generator.exponential())
        noise = generator.uniform(0.7, 1.3, 6)
        problem.append(
            [
                Choice(scheme="x", bytes=size * bits, error=error * 4.0**-bits * noise[bits - 3])
                for bits in range(3, 9)
            ]
        )
    low, high = (sum(unit[i].bytes for unit in problem) for i in (0, -1))
    budget = int(low + share * (high - low))
    picked = least_error(problem, budget)
    size, error = total(problem, picked)
    assert size <= budget
    assert math.isclose(error, by_highs(problem, budget), rel_tol=1e-6)


def test_a_real_size_is_solved_exactly_at_its_ends():
    sizes = [(4608, 0.3), (5120, 0.11), (8704, 0.002), (16384, 0.0)]
    problem = [
        [Choice(scheme=str(n), bytes=n * (1 + i % 3), error=e * (1 + i % 7)) for n, e in sizes]
        for i in range(120)
    ]
    low = sum(unit[0].bytes for unit in problem)
    assert least_error(problem, low - 1) is None
    assert least_error(problem, low) == [0] * 120
    assert least_error(problem, 10**9) == [3] * 120
    assert least_bytes(problem, 0.0) == [3] * 120
