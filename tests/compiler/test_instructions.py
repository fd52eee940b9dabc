"""What kernels may assume of a processor."""

from __future__ import annotations

import pytest

from gem_host.processor import LEVELS
from gemcore.compiler import instructions
from gemcore.compiler.instructions import InstructionSet


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_every_level_of_the_host_has_kernels(level):
    isa = getattr(instructions, level.kernels)
    assert isinstance(isa, InstructionSet)
    # Tiles must come down to one token, largest first, or some counts would never be computed.
    assert isa.token_tiles[-1] == 1
    assert list(isa.token_tiles) == sorted(isa.token_tiles, reverse=True)
