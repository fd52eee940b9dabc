"""Tables of divergences, from numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from divergence_table import Result, mean_words, ratio_interval, report

TEXTS = ("law", "stem")


def result(name: str, size: int, law: float, stem: float) -> Result:
    kl = np.empty((2, 3, 4))
    kl[0], kl[1] = law, stem
    return Result(name=name, bytes=size, kl=kl)


def test_smaller_models_come_first_and_each_meets_the_hybrid_that_fits() -> None:
    found = report(
        [
            result("llama.cpp Q8_0", 900, 0.1, 0.2),
            result("llama.cpp Q4_0", 300, 0.1, 0.2),
            result("hybrid, 4 bits", 400, 0.05, 0.3),
            result("hybrid, 6 bits", 600, 0.01, 0.02),
        ],
        TEXTS,
        weights=800,
    )
    first, second = (table.splitlines() for table in found.split("\n\n"))
    assert first[0] == "| model | bits | law | stem | all |"
    assert [line.split(" | ")[0] for line in first[2:]] == [
        "| llama.cpp Q4_0",
        "| hybrid, 4 bits",
        "| hybrid, 6 bits",
        "| llama.cpp Q8_0",
    ]
    assert first[3].startswith("| hybrid, 4 bits | 4.00 | 0.0500 | 0.3000 | 0.1750 ± ")
    # Q4_0 is smaller than either hybrid model, so nothing stands beside it.
    assert second[2:] == [
        "| llama.cpp Q8_0 | hybrid, 6 bits | 6.00 against 9.00 | 2 of 2 | 0.10 (0.10 to 0.10) |"
    ]


def test_intervals_are_of_windows() -> None:
    means = np.array([1.0, 2.0, 3.0, 6.0])
    kl = np.broadcast_to(means.reshape(2, 2, 1), (2, 2, 5))
    # The standard deviation of the four means over the square root of four.
    error = 1.96 * means.std(ddof=1) / 2
    assert mean_words(kl) == f"3.0000 ± {error:.4f}"


def test_the_ratio_is_of_pairs() -> None:
    generator = np.random.default_rng(0)
    theirs = generator.exponential(size=(9, 4, 16))
    low, ratio, high = ratio_interval(0.5 * theirs, theirs)
    assert (low, ratio, high) == pytest.approx((0.5, 0.5, 0.5))
    low, ratio, high = ratio_interval(generator.exponential(size=(9, 4, 16)), theirs)
    assert low < ratio < high
    assert low < 1 < high
