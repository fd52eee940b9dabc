"""GEM's comparison routers pass what every router must."""

import shutil

import pytest

from gemcore.testing import RouterConformance, material


@pytest.fixture(scope="session")
def with_head(tmp_path_factory, fit_head):
    """The suite's experts with a fitted head of `xlora`."""
    folder = tmp_path_factory.mktemp("xlora") / "set"
    shutil.copytree(material.experts().folder, folder)
    return fit_head(folder)


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
