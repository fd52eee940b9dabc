"""Random experts of the tiny model in a folder, and a random head of `xlora` for three experts."""

import numpy as np
import pytest

from gem_scar.fitted import FittedRouter, write_fitted
from gemcore.experts.expert_set import read_set
from gemcore.testing.experts import write_tiny_set


@pytest.fixture
def folder(tiny, tmp_path):
    """A set's folder."""
    write_tiny_set(tmp_path / "set", tiny)
    return tmp_path / "set"


@pytest.fixture(scope="session")
def fit_head():
    """Puts a fitted head of `xlora` into a set's folder, which it returns."""

    def fit(folder):
        experts = read_set(folder)
        generator = np.random.default_rng(0)
        fitted = FittedRouter(
            router="xlora",
            base=experts.base,
            experts=experts.names,
            sha256=tuple(expert.digest for expert in experts.experts),
            settings={},
            tensors={
                "weight": generator.standard_normal((3, 64)).astype(np.float32),
                "bias": generator.standard_normal(3).astype(np.float32),
            },
        )
        write_fitted(folder, fitted)
        return folder

    return fit
