"""The order in which HVX reads weights, against a slow description of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemcore.compiler.kernels.hvx_layout import HVX_SCHEMES, arrange, place
from gemcore.schemes import LINE, TILE, get_scheme


@settings(max_examples=25)
@given(name=st.sampled_from(HVX_SCHEMES), tiles=st.integers(1, 5), blocks=st.integers(1, 4))
def test_every_byte_is_where_the_kernels_look_for_it(name, tiles, blocks):
    scheme = get_scheme(name)
    shape = (tiles, blocks, scheme.block_bytes)
    packed = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    flat = arrange(packed, scheme).reshape(-1)
    starts = [*range(0, scheme.code_bytes, LINE)]
    sizes = dict.fromkeys(starts, LINE)
    sizes |= dict.fromkeys(range(scheme.code_bytes, scheme.block_bytes, 2 * TILE), 2 * TILE)
    for tile in range(tiles):
        for block in range(blocks):
            for start, size in sizes.items():
                at = place(scheme, (tiles, blocks), tile, block, start)
                wanted = packed[tile, block, start : start + size]
                np.testing.assert_array_equal(flat[at : at + size], wanted)
                if start < scheme.code_bytes and tile // 2 * 2 + 1 < tiles:
                    # A line of two tiles is one vector.
                    assert (at - tile % 2 * LINE) % 128 == 0


@pytest.mark.parametrize("name", ["f16", "q6-g32"])
def test_other_schemes_stay_as_they_are(name):
    scheme = get_scheme(name)
    packed = np.arange(64, dtype=np.uint8).reshape(2, 4, 8)
    assert arrange(packed, scheme) is packed
