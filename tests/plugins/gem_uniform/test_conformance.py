"""GEM's uniform quantizers pass what every quantizer must."""

import pytest

from gemcore.schemes import SCHEMES
from gemcore.testing import QuantizerConformance

# Rounding to nearest of normally distributed weights: what each number of bits may lose.
LARGEST_ERROR = {2: 0.5, 3: 0.25, 4: 0.12, 5: 0.06, 6: 0.03, 8: 0.01, 16: 0.001}


@pytest.mark.parametrize("scheme", SCHEMES)
class TestUniform(QuantizerConformance):
    @pytest.fixture(autouse=True)
    def chosen(self, scheme):
        self.plugin = f"{scheme}:head={scheme}"
        self.relative_error = LARGEST_ERROR[SCHEMES[scheme].bits]
