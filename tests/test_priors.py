"""What a caller may give as a prior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemcore.errors import UsageError
from gemcore.priors import Priors, check_prior

EXPERTS = ("code", "law", "medicine")


def test_names_and_numbers_are_the_same_prior() -> None:
    by_name = check_prior({"medicine": 0.25, "code": 0.5}, EXPERTS)
    assert by_name.dtype == np.float32
    assert by_name.tolist() == check_prior([0.5, 0.0, 0.25], EXPERTS).tolist() == [0.5, 0.0, 0.25]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lav": 1.0}, "unknown expert 'lav': did you mean 'law'"),
        ([1.0], "has 1 numbers, but the model has 3 experts: code, law, medicine"),
        ([0.5, 0.6, 0.0], "at least 0 with a sum of at most 1"),
        ([-0.1, 0.6, 0.0], "at least 0 with a sum of at most 1"),
        ([float("nan"), 0.0, 0.0], "at least 0 with a sum of at most 1"),
    ],
)
def test_what_is_no_prior_is_refused(wrong, message) -> None:
    with pytest.raises(UsageError, match=message):
        check_prior(wrong, EXPERTS)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda values: sum(values) <= 1))
def test_every_prior_is_taken_as_it_is(values) -> None:
    assert check_prior(values, EXPERTS).tolist() == [np.float32(value) for value in values]


def test_a_model_without_experts_has_no_prior() -> None:
    priors = Priors(experts=(), longest=0, executor=None, cache=None)
    assert priors.of([1, 2]) is None
    with pytest.raises(UsageError, match="this model has no experts"):
        priors.of([1, 2], {"law": 1.0})
