"""A fitted SCAR passes what every router must."""

import shutil

import pytest

from gem_scar.fit import fit_set
from gemcore.discovery import HostSettings
from gemcore.experts.expert_set import read_set
from gemcore.plugins import PluginHost
from gemcore.testing import RouterConformance


class TestScar(RouterConformance):
    plugin = "scar"

    kept = None

    @pytest.fixture(autouse=True)
    def fitted(self, host, tiny, folder, examples_of, small, tmp_path_factory):
        """Fit once, for all checks."""
        if self.kept is None:
            fit_set(read_set(folder), examples_of(("code", "law", "medicine")), small)
            type(self).kept = tmp_path_factory.mktemp("scar") / "set"
            shutil.copytree(folder, self.kept)
        self.model, self.folder = tiny, self.kept

    def host(self):
        # The installed plugins; those of the fixture lack quantizers and targets.
        return PluginHost.discover(HostSettings())

    def checkpoint(self):
        return self.model

    def options(self):
        return {"experts": str(self.folder)}
