"""Packed weights against an independent slow loop, and rounding against its bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gemcore.errors import UsageError
from gemcore.packing import (
    Quantized,
    byte_factors,
    dequantize,
    pack,
    pack_halves,
    pack_weight,
    packed_shape,
    quantize,
    unpack,
    unpack_halves,
    unpack_weight,
)
from gemcore.schemes import SCHEMES, Scheme, fits, get_scheme
from tests.factors import FINITE_HALVES, any_factors, from_bytes

GROUPED = [scheme for scheme in SCHEMES.values() if scheme.grouped]
grouped_schemes = pytest.mark.parametrize("scheme", GROUPED, ids=lambda scheme: scheme.name)


WHOLE = {2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 8: 1}
"""Codes that a byte holds whole, by their bits."""


@st.composite
def quantized_weights(draw, scheme: Scheme) -> Quantized:
    rows, groups = draw(st.integers(1, 35)), draw(st.integers(1, 3))
    shape = (rows, scheme.group * groups)
    codes = draw(arrays(np.uint8, shape, elements=st.integers(0, 2**scheme.bits - 1)))

    def bits(kind: type) -> np.ndarray:
        # Any bits at all: packing must not interpret them.
        return draw(arrays(kind, (rows, groups), elements=st.integers(0, np.iinfo(kind).max)))

    if scheme.byte_factors:
        scales, minima = from_bytes(scheme, bits(np.uint8), bits(np.uint8))
        return Quantized(codes=codes, scales=scales, minima=minima)
    halves = [bits(np.uint16).view(np.float16) for _ in range(1 + scheme.has_minimum)]
    return Quantized(codes=codes, scales=halves[0], minima=[*halves, None][1])


def weights(scheme: Scheme, largest: float = 1e4):
    columns = st.integers(1, 3).map(lambda groups: scheme.group * groups)
    shapes = st.tuples(st.integers(1, 20), columns)
    values = st.floats(-largest, largest, width=32)
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=values))


def slow_block(scheme: Scheme, weight: Quantized, tile: int, group: int) -> bytes:
    """One block, bit by bit, as the module's docstring describes it."""
    block = bytearray(scheme.block_bytes)
    rows = weight.codes.shape[0]
    whole, bits = WHOLE[scheme.bits], scheme.bits
    # Places of bits in the lines of 32 values: those of whole codes, then those at the tops.
    places = [(line, bit) for line in range(bits) for bit in range(whole * bits)]
    places += [(line, bit) for line in range(bits) for bit in range(whole * bits, 8)]
    for lane in range(16):
        row = 16 * tile + lane
        for k in range(scheme.group):
            code = int(weight.codes[row, scheme.group * group + k]) if row < rows else scheme.offset
            half, dot = k // 32, k % 32 // 4
            for i, (line, bit) in enumerate(places[dot * bits : (dot + 1) * bits]):
                byte = 64 * (half * bits + line) + 4 * lane + k % 4
                block[byte] |= (code >> i & 1) << bit
        start = 16 * scheme.group * scheme.bits // 8
        if row >= rows:
            continue
        if scheme.byte_factors:
            scale, minimum = weight.scales[row, group], float(weight.minima[row, group])
            block[start + lane] = int.from_bytes((scale / 8).tobytes(), "little") // 64
            step = float(scale) / 2 ** (8 - scheme.bits)
            block[start + 16 + lane] = int(-minimum / step) if step else 0
            continue
        for part, halves in enumerate((weight.scales, weight.minima)):
            if halves is not None:
                place = start + 32 * part + 2 * lane
                block[place : place + 2] = halves[row, group].tobytes()
    return bytes(block)


@grouped_schemes
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_unpack_undoes_pack(scheme, data):
    weight = data.draw(quantized_weights(scheme))
    rows = weight.codes.shape[0]
    packed = pack(weight, scheme)
    assert packed.shape == packed_shape(scheme, weight.codes.shape)
    assert packed.dtype == np.uint8
    again = unpack(packed, scheme, rows)
    np.testing.assert_array_equal(again.codes, weight.codes)
    np.testing.assert_array_equal(again.scales.view(np.uint16), weight.scales.view(np.uint16))
    assert (again.minima is None) == (weight.minima is None)
    if weight.minima is not None:
        bits = np.uint32 if scheme.byte_factors else np.uint16
        np.testing.assert_array_equal(again.minima.view(bits), weight.minima.view(bits))


@grouped_schemes
@pytest.mark.parametrize("rows", [16, 21])
def test_layout_is_the_documented_one(scheme, rows):
    shape = (rows, 3 * scheme.group)
    codes = np.random.default_rng(1).integers(0, 2**scheme.bits, shape, dtype=np.uint8)
    weight = Quantized(codes=codes, **any_factors(scheme, (rows, 3), seed=2))
    packed = pack(weight, scheme)
    for tile in range(packed.shape[0]):
        for group in range(3):
            assert packed[tile, group].tobytes() == slow_block(scheme, weight, tile, group)


def test_layout_of_halves_is_the_documented_one():
    weight = np.random.default_rng(2).standard_normal((21, 5)).astype(np.float32)
    packed = pack_halves(weight)
    assert packed.shape == packed_shape(get_scheme("f16"), (21, 5)) == (2, 5, 16)
    for row in range(32):
        for column in range(5):
            expected = np.float16(weight[row, column]) if row < 21 else 0
            assert packed[row // 16, column, row % 16] == expected


@settings(max_examples=40, deadline=None)
@given(weight=arrays(np.float16, st.tuples(st.integers(1, 35), st.integers(1, 9)),
                     elements=FINITE_HALVES))  # fmt: skip
def test_halves_come_back_exactly(weight):
    unpacked = unpack_halves(pack_halves(weight), weight.shape[0])
    np.testing.assert_array_equal(unpacked, weight.astype(np.float32))


@grouped_schemes
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rounding_stays_within_half_a_step(scheme, data):
    weight = data.draw(weights(scheme, 20 if scheme.byte_factors else 1e4))
    quantized = quantize(weight, scheme)
    error = np.abs(dequantize(quantized, scheme).astype(float) - weight).reshape(
        *quantized.scales.shape, scheme.group
    )
    step = np.abs(quantized.scales.astype(float))
    groups = np.abs(weight.astype(float)).reshape(error.shape)
    extent = groups.max(-1)
    # Scales are float16: rounding one moves the end of the grid by up to 2**-11 of it, or by
    # levels times the smallest float16 where the scale is subnormal. With a minimum, that rounds too.
    reach = (2**scheme.bits - 1) * step if scheme.has_minimum else 0
    slack = 2.0**-10 * (extent + reach) + 2.0**scheme.bits * 2.0**-25
    if (
        scheme.byte_factors
    ):  # of 5 bits each, or steps of 2**-15 where it is subnormal; zero points of 8
        slack += 2.0**-5 * reach + 2.0**scheme.bits * 2.0**-16 + scheme.zero_step * step
    if scheme.bits < 8 and not scheme.has_minimum:
        # The end of the grid on the other side of the largest value is one step short.
        extremes = np.take_along_axis(weight.reshape(error.shape), groups.argmax(-1)[..., None], -1)
        opposite = np.sign(weight.reshape(error.shape)) != np.sign(extremes)
        bound = np.where(opposite, 1.0, 0.5) * step[..., None] + slack[..., None]
    else:
        bound = step[..., None] / 2 + slack[..., None]
    assert (error <= bound).all()


@grouped_schemes
def test_values_on_the_grid_are_kept(scheme):
    generator = np.random.default_rng(3)
    codes = generator.integers(1, 2**scheme.bits, (5, 2 * scheme.group), dtype=np.uint8)
    # Both ends of the grid occur in each group, so that rounding finds this very grid.
    codes[:, ::32] = 1 if scheme.bits == 8 else 0
    codes[:, 1::32] = 2**scheme.bits - 1
    scales = np.full((5, 2), 0.25, np.float16)
    minima = np.full((5, 2), -0.5, np.float16) if scheme.has_minimum else None
    values = dequantize(Quantized(codes=codes, scales=scales, minima=minima), scheme)
    np.testing.assert_array_equal(dequantize(quantize(values, scheme), scheme), values)


@pytest.mark.parametrize("name", SCHEMES)
def test_zeros_stay_zeros(name):
    scheme = get_scheme(name)
    zeros = np.zeros((17, scheme.group), np.float32)
    np.testing.assert_array_equal(unpack_weight(pack_weight(zeros, scheme), scheme, 17), zeros)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name, bad):
    weight = np.ones((2, get_scheme(name).group), np.float32)
    weight[1, 3] = bad
    with pytest.raises(UsageError, match="NaN or infinite"):
        pack_weight(weight, get_scheme(name))


def test_too_large_for_half_precision_names_the_value_and_the_way_out():
    weight = np.full((1, 32), -1e5, np.float32)
    with pytest.raises(UsageError, match=r"up to 65504, but the weight reaches 100000.*q8-g32"):
        pack_weight(weight, get_scheme("f16"))
    kept = unpack_weight(pack_weight(weight, get_scheme("q8-g32")), get_scheme("q8-g32"), 1)
    np.testing.assert_allclose(kept, weight, rtol=1e-2)


def test_scales_that_a_byte_does_not_hold_name_a_scheme_that_does():
    weight = np.full((1, 32), 1000.0, np.float32)
    with pytest.raises(UsageError, match=r"q4z-g32 has scales up to 15.5.*66\.6667.*q4a-g32"):
        pack_weight(weight, get_scheme("q4z-g32"))
    with pytest.raises(UsageError, match="q2a-g32|q8-g32"):
        pack_weight(weight, get_scheme("q2z-g32"))


def test_scales_and_minima_that_were_not_made_for_bytes_are_not_packed():
    codes, scheme = np.zeros((16, 32), np.uint8), get_scheme("q4z-g32")
    scales = np.full((16, 1), 0.1, np.float16)
    with pytest.raises(ValueError, match="q4z-g32 does not have"):
        pack(Quantized(codes=codes, scales=scales, minima=-scales), scheme)


@given(
    scales=arrays(np.float32, 9, elements=st.floats(0, 15.5, width=32)),
    parts=arrays(np.float32, 9, elements=st.floats(-0.5, 5, width=32)),
    scheme=st.sampled_from([scheme for scheme in GROUPED if scheme.byte_factors]),
)
def test_byte_factors_are_the_nearest_there_are(scales, parts, scheme):
    """Against a search of all 256 scales, and of all 256 zero points of the scale that was found."""
    minima = -scales * parts
    found, lows = byte_factors(scales, minima, scheme.zero_step)
    everything = np.arange(256)
    known, _ = from_bytes(scheme, everything, everything)
    distance = np.abs(found.astype(float) - scales)
    # By way of float16: a number may cross the middle between two scales by 2**-11 of itself.
    best = np.abs(known.astype(float)[:, None] - scales).min(axis=0)
    assert (distance <= best + 2.0**-10 * scales + 2.0**-20).all()
    choices = -found.astype(float) * everything[:, None] * scheme.zero_step
    nearest = np.abs(choices - minima).min(axis=0)
    np.testing.assert_allclose(np.abs(lows - minima), nearest, rtol=1e-5, atol=1e-6)


@grouped_schemes
@pytest.mark.parametrize("value", [1e8, -1e8, 3e38])
def test_values_whose_scale_overflows_are_refused(scheme, value):
    weight = np.full((1, scheme.group), value, np.float32)
    weight[0, 0] = -value
    kind = "scales up to 15.5" if scheme.byte_factors else "float16 scales"
    with pytest.raises(UsageError, match=f"scheme {scheme.name} has {kind}"):
        quantize(weight, scheme)


def test_only_whole_groups_fit():
    assert fits(get_scheme("q4a-g32"), (8, 64)) is None
    assert "48" in (fits(get_scheme("q4a-g32"), (8, 48)) or "")
    assert fits(get_scheme("q2a-g64"), (8, 128)) is None
    assert "group size 64" in (fits(get_scheme("q2a-g64"), (8, 96)) or "")
    assert fits(get_scheme("f16"), (8, 48)) is None


def test_unknown_scheme_lists_the_known_ones():
    with pytest.raises(UsageError, match=f"did you mean 'q8-g32'.*{', '.join(sorted(SCHEMES))}"):
        get_scheme("q8g32")


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("q2a-g64", 2.5),
        ("q3a-g32", 4.0),
        ("q3a-g64", 3.5),
        ("q3s-g32", 3.5),
        ("q3s-g64", 3.25),
        ("q4a-g32", 5.0),
        ("q4a-g64", 4.5),
        ("q4s-g32", 4.5),
        ("q2z-g32", 2.5),
        ("q3z-g32", 3.5),
        ("q4z-g32", 4.5),
        ("q5z-g32", 5.5),
        ("q4s-g64", 4.25),
        ("q5a-g32", 6.0),
        ("q5a-g64", 5.5),
        ("q5s-g32", 5.5),
        ("q5s-g64", 5.25),
        ("q6-g32", 6.5),
        ("q6-g64", 6.25),
        ("q8-g32", 8.5),
        ("q8-g64", 8.25),
        ("f16", 16.0),
    ],
)
def test_bits_per_weight(name, bits):
    assert get_scheme(name).bits_per_weight == bits
    size = pack_weight(np.ones((32, 64), np.float32), get_scheme(name)).nbytes
    assert 8 * size / (32 * 64) == bits
