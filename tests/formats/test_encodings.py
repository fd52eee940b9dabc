"""Every encoding against a scalar transcription of ggml's own formulas (`ggml-quants.c`)."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemcore.errors import FormatError
from gemcore.formats.encodings import ENCODINGS, decoder_of, view_of


def half(data, at):
    return np.float32(struct.unpack_from("<e", data, at)[0])


def q4_0(block):
    d, codes = half(block, 0), block[2:]
    return [d * np.float32((c & 15) - 8) for c in codes] + [
        d * np.float32((c >> 4) - 8) for c in codes
    ]


def q4_1(block):
    d, m, codes = half(block, 0), half(block, 2), block[4:]
    return [d * np.float32(c & 15) + m for c in codes] + [d * np.float32(c >> 4) + m for c in codes]


def fifth_bits(block, at):
    bits = struct.unpack_from("<I", block, at)[0]
    return [(bits >> i & 1) << 4 for i in range(32)]


def q5_0(block):
    d, high, codes = half(block, 0), fifth_bits(block, 2), block[6:]
    low = [c & 15 for c in codes] + [c >> 4 for c in codes]
    return [d * np.float32((c | h) - 16) for c, h in zip(low, high, strict=True)]


def q5_1(block):
    d, m, high, codes = half(block, 0), half(block, 2), fifth_bits(block, 4), block[8:]
    low = [c & 15 for c in codes] + [c >> 4 for c in codes]
    return [d * np.float32(c | h) + m for c, h in zip(low, high, strict=True)]


def q8_0(block):
    d = half(block, 0)
    return [d * np.float32(c) for c in struct.unpack("<32b", block[2:])]


def scale_and_minimum(q, j):
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4)


def k_values(block, codes_at, high_at=None):
    d, least, scales = half(block, 0), half(block, 2), block[4:16]
    values = []
    for group in range(8):
        scale, minimum = scale_and_minimum(scales, group)
        for i in range(32):
            byte = block[codes_at + group // 2 * 32 + i]
            code = byte >> 4 if group % 2 else byte & 15
            if high_at is not None:
                code += (block[high_at + i] >> group & 1) << 4
            values.append(d * np.float32(scale) * np.float32(code) - least * np.float32(minimum))
    return values


def q4_k(block):
    return k_values(block, 16)


def q5_k(block):
    return k_values(block, 48, 16)


def q6_k(block):
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block, 208)
    scales = struct.unpack("<16b", scales)
    values = [np.float32(0)] * 256
    for n in (0, 1):
        for i in range(32):
            for quarter in range(4):
                byte = low[n * 64 + i + 32 * (quarter % 2)]
                nibble = byte >> 4 if quarter >= 2 else byte & 15
                code = (nibble | (high[n * 32 + i] >> 2 * quarter & 3) << 4) - 32
                scale = scales[n * 8 + i // 16 + 2 * quarter]
                values[n * 128 + quarter * 32 + i] = d * np.float32(scale) * np.float32(code)
    return values


REFERENCE = {
    "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0,
    "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
}  # fmt: skip
# Where the half-precision scales lie; random bytes there would be infinities and NaNs.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def test_the_reference_covers_every_block_encoding():
    assert set(REFERENCE) == {name for name, known in ENCODINGS.items() if known.is_blocked}


def test_sizes_are_those_of_the_gguf_package():
    import gguf

    for name, known in ENCODINGS.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (known.code, known.block, known.block_bytes) == (kind, *gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("encoding", REFERENCE)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_blocks_decode_as_ggml_does(encoding, seed):
    random = np.random.default_rng(seed)
    size = ENCODINGS[encoding].block_bytes
    data = random.integers(0, 256, (2, 2 * size), dtype=np.uint8)
    blocks = data.reshape(4, size)
    for at in SCALES[encoding]:
        blocks[:, at : at + 2] = random.normal(size=(4, 1)).astype("<f2").view(np.uint8)
    expected = np.array([REFERENCE[encoding](block.tobytes()) for block in blocks], np.float32)
    decoded = decoder_of(encoding)(data)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, expected.reshape(2, -1), rtol=1e-6, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_decodes_as_torch_does(values):
    import torch

    stored = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16)
    data = stored.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(decoder_of("BF16")(data), stored.float().numpy())


@pytest.mark.parametrize(("encoding", "dtype"), [("F32", np.float32), ("F16", np.float16)])
def test_floats_decode_to_themselves(encoding, dtype):
    data = np.array([[0.5, -2.0, np.inf]], dtype)
    decoded = decoder_of(encoding)(data)
    assert decoded.dtype == np.float32
    assert not np.shares_memory(decoded, data)
    np.testing.assert_array_equal(decoded, data)


def test_a_view_copies_nothing():
    mapped = np.arange(256, dtype=np.uint8)
    view = view_of(mapped, 8, (2, 64), "Q4_1")
    assert view.shape == (2, 40)
    assert np.shares_memory(view, mapped)
    np.testing.assert_array_equal(view.reshape(-1), mapped[8:88])


@pytest.mark.parametrize("offset", [-1, 241, 1 << 60])
def test_a_view_never_leaves_the_file(offset):
    with pytest.raises(FormatError, match="lies outside 256 bytes"):
        view_of(np.zeros(256, np.uint8), offset, (4,), "F32")
