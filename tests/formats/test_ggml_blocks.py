"""ggml blocks repacked, against the reference implementation in `gguf.quants`."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gemcore.errors import FormatError
from gemcore.formats.encodings import ENCODINGS, decoder_of
from gemcore.formats.ggml_blocks import LOSSLESS_SCHEMES, codes_from_blocks
from gemcore.models.checkpoint import StoredTensor
from gemcore.models.layout import weight_units
from gemcore.models.weights import pack_unit
from gemcore.packing import pack, unpack_weight
from gemcore.schemes import get_scheme
from gemcore.testing import tiny_checkpoint, tiny_config
from tests.factors import FINITE_HALVES

BLOCKED = [name for name in LOSSLESS_SCHEMES if ENCODINGS[name].is_blocked]
blocked_encodings = pytest.mark.parametrize("encoding", BLOCKED)


def blocks_with(encoding: str, halves: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Blocks `[rows, bytes]` from scales (and minima) `[rows, blocks, 1 or 2]` and code bytes."""
    rows = halves.shape[0]
    head = np.ascontiguousarray(halves.astype(np.float16)).view(np.uint8)
    return np.concatenate([head, codes], axis=2).reshape(rows, -1)


def code_bytes(encoding: str) -> tuple[int, int]:
    """Halves and code bytes of one block."""
    halves = 2 if encoding in ("Q4_1", "Q5_1") else 1
    return halves, ENCODINGS[encoding].block_bytes - 2 * halves


def repacked(encoding: str, data: np.ndarray) -> np.ndarray:
    scheme = get_scheme(LOSSLESS_SCHEMES[encoding])
    return unpack_weight(pack(codes_from_blocks(encoding, data), scheme), scheme, data.shape[0])


@blocked_encodings
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_repacked_values_are_those_of_the_reference(encoding, data):
    halves, codes = code_bytes(encoding)
    rows, blocks = data.draw(st.integers(1, 19)), data.draw(st.integers(1, 3))
    blob = blocks_with(
        encoding,
        data.draw(arrays(np.float16, (rows, blocks, halves), elements=FINITE_HALVES)),
        data.draw(arrays(np.uint8, (rows, blocks, codes))),
    )
    expected = quants.dequantize(blob, gguf.GGMLQuantizationType[encoding])
    np.testing.assert_array_equal(repacked(encoding, blob), expected)


@blocked_encodings
@pytest.mark.parametrize("scale", [0.75, -0.75])
def test_every_code_is_kept(encoding, scale):
    """All byte values occur: the 8-bit code -128, which rounding never makes, among them."""
    halves, codes = code_bytes(encoding)
    count = -(-256 // codes)
    numbers = np.arange(count * codes).astype(np.uint8).reshape(1, count, codes)
    blob = blocks_with(encoding, np.full((1, count, halves), scale), numbers)
    expected = quants.dequantize(blob, gguf.GGMLQuantizationType[encoding])
    np.testing.assert_array_equal(repacked(encoding, blob), expected)
    if encoding == "Q8_0":
        assert (expected == -128 * scale).any()


def checkpoint_with(encoding: str, data: np.ndarray):
    """A checkpoint whose embedding is `data` in `encoding`, and the unit that it makes."""
    checkpoint = tiny_checkpoint(tiny_config(layers=1))
    unit = weight_units(checkpoint.config)[0]
    tensor = StoredTensor(
        name=unit.sources[0],
        shape=unit.shape,
        encoding=encoding,
        data=data,
        decode=decoder_of(encoding),
    )
    checkpoint.tensors[tensor.name] = tensor
    return checkpoint, unit


@blocked_encodings
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused_in_one_sentence(encoding, bad):
    rows, columns = weight_units(tiny_config())[0].shape
    halves, codes = code_bytes(encoding)
    scales = np.ones((rows, columns // 32, halves))
    scales[3, 1, -1] = bad
    blob = blocks_with(encoding, scales, np.zeros((rows, columns // 32, codes), np.uint8))
    checkpoint, unit = checkpoint_with(encoding, blob)
    with pytest.raises(FormatError, match=r"^model.embed_tokens.weight of model 'tiny': .* NaN"):
        pack_unit(checkpoint, unit, get_scheme(LOSSLESS_SCHEMES[encoding]))


@pytest.mark.parametrize(("bad", "reason"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_halves_that_are_not_finite_are_refused_in_one_sentence(bad, reason):
    data = np.ones(weight_units(tiny_config())[0].shape, np.float16)
    data[5, 5] = bad
    checkpoint, unit = checkpoint_with("F16", data)
    with pytest.raises(
        FormatError, match=f"^model.embed_tokens.weight of model 'tiny': .*{reason}"
    ):
        pack_unit(checkpoint, unit, get_scheme("f16"))


def test_values_too_large_for_half_precision_are_refused_in_one_sentence():
    data = np.full(weight_units(tiny_config())[0].shape, 7e4, np.float32)
    checkpoint, unit = checkpoint_with("F32", data)
    with pytest.raises(FormatError, match=r"^model.embed_tokens.weight .* reaches 70000: choose"):
        pack_unit(checkpoint, unit, get_scheme("f16"))


@pytest.mark.parametrize("encoding", LOSSLESS_SCHEMES)
def test_a_fitting_encoding_is_taken_over_and_another_is_rounded(encoding):
    values = np.random.default_rng(0).standard_normal(weight_units(tiny_config())[0].shape)
    data = quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType[encoding])
    checkpoint, unit = checkpoint_with(encoding, data)
    expected = checkpoint.tensors[unit.sources[0]].to_float32()
    for name in LOSSLESS_SCHEMES.values():
        packed, exact = pack_unit(checkpoint, unit, get_scheme(name))
        unpacked = unpack_weight(packed, get_scheme(name), unit.shape[0])
        assert exact == (name == LOSSLESS_SCHEMES[encoding])
        if exact:
            np.testing.assert_array_equal(unpacked, expected)
        else:
            np.testing.assert_allclose(unpacked, expected, atol=0.4)
