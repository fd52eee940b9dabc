"""What GEM asks of every target, and what this one promises."""

import pytest
from gemcore.errors import BundleError
from gemcore.testing import TargetConformance

from gem_riscv64.target import Riscv64Target


class TestRiscv64Target(TargetConformance):
    plugin = "riscv64"


def test_a_bundle_of_another_machine_is_refused(tmp_path):
    with pytest.raises(BundleError, match="the bundle is for abacus"):
        Riscv64Target(1).open(tmp_path, {"machine": "abacus"}, [], None)
