"""GEM's comparison routers pass what every router must."""

import shutil

import numpy as np
import pytest

from gem_scar.fitted import FittedRouter, write_fitted
from gemcore.experts.expert_set import read_set
from gemcore.testing import RouterConformance, material


@pytest.fixture(scope="session")
def with_head(tmp_path_factory):
    """The suite's experts with a fitted head of `xlora`."""
    folder = tmp_path_factory.mktemp("xlora") / "set"
    shutil.copytree(material.experts().folder, folder)
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


class TestStatic(RouterConformance):
    plugin = "static:expert=law,weight=0.5"


class TestOracle(RouterConformance):
    plugin = "oracle"


class TestArrow(RouterConformance):
    plugin = "arrow:top_k=2"


class TestXlora(RouterConformance):
    plugin = "xlora"

    @pytest.fixture(autouse=True)
    def fitted(self, with_head):
        self.folder = with_head

    def options(self):
        return {"experts": str(self.folder)}
