"""GEM's uniform quantizers pass what every quantizer must."""

import pytest

from gemcore.schemes import SCHEMES
from gemcore.testing import QuantizerConformance

# Rounding to nearest of normally distributed weights: what each number of bits may lose.
LARGEST_ERROR = {2: 0.5, 3: 0.25, 4: 0.12, 5: 0.06, 6: 0.03, 8: 0.01, 16: 0.001}


OFTEN = {"f16", "q3a-g32", "q4a-g32", "q4z-g32", "q6-g64", "q8-g32"}
"""The tests of packing and of the kernels have all schemes every time; the whole contract of all is slow."""


@pytest.mark.parametrize(
    "scheme",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in SCHEMES],
)
class TestUniform(QuantizerConformance):
    @pytest.fixture(autouse=True)
    def chosen(self, scheme):
        self.plugin = f"{scheme}:head={scheme}"
        self.relative_error = LARGEST_ERROR[SCHEMES[scheme].bits]
