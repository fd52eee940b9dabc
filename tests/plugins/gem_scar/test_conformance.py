"""A fitted SCAR passes what every router must."""

import pytest

from gem_scar.fit import fit_set
from gemcore.discovery import HostSettings
from gemcore.experts.expert_set import read_set
from gemcore.plugins import PluginHost
from gemcore.testing import RouterConformance


class TestScar(RouterConformance):
    plugin = "scar"

    @pytest.fixture(autouse=True)
    def fitted(self, host, tiny, folder, examples_of, small):
        self.model, self.folder = tiny, folder
        fit_set(read_set(folder), examples_of(("code", "law", "medicine")), small)

    def host(self):
        # The installed plugins; those of the fixture lack quantizers and targets.
        return PluginHost.discover(HostSettings())

    def checkpoint(self):
        return self.model

    def options(self):
        return {"experts": str(self.folder)}
