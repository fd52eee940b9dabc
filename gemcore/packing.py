"""How quantized weights lie in memory: the schemes, and packing to and from float32, in NumPy.

Every scheme stores a linear weight `[out, in]` in tiles of 16 rows, so that one vector register
holds one number of each row, whatever the machine. Quantized schemes also cut the rows into groups of
32 or 64 values that share a scale; one tile of one group is a *block* of `block_bytes` consecutive bytes:

`q2z-g32`  value = (code - zero) * scale, codes 0..3         128 B codes, 16 scales, 16 zeros (a byte each)
`q2a-g64`  value = code * scale + minimum, codes 0..3       256 B codes, 16 scales, 16 minima (float16)
`q3z-g32`  value = (code - zero) * scale, codes 0..7         192 B codes, 16 scales, 16 zeros (a byte each)
`q3a-g32`  value = code * scale + minimum, codes 0..7       192 B codes, 16 scales, 16 minima (float16)
`q3a-g64`  likewise, for 64 values                          384 B codes, 16 scales, 16 minima (float16)
`q3s-g32`  value = (code - 4) * scale, codes 0..7           192 B codes, 16 scales (float16)
`q3s-g64`  likewise, for 64 values                          384 B codes, 16 scales (float16)
`q4z-g32`  value = (code - zero) * scale, codes 0..15        256 B codes, 16 scales, 16 zeros (a byte each)
`q4a-g32`  value = code * scale + minimum, codes 0..15      256 B codes, 16 scales, 16 minima (float16)
`q4a-g64`  likewise, for 64 values                          512 B codes, 16 scales, 16 minima (float16)
`q4s-g32`  value = (code - 8) * scale, codes 0..15          256 B codes, 16 scales (float16)
`q4s-g64`  likewise, for 64 values                          512 B codes, 16 scales (float16)
`q5z-g32`  value = (code - zero) * scale, codes 0..31        320 B codes, 16 scales, 16 zeros (a byte each)
`q5a-g32`  value = code * scale + minimum, codes 0..31      320 B codes, 16 scales, 16 minima (float16)
`q5a-g64`  likewise, for 64 values                          640 B codes, 16 scales, 16 minima (float16)
`q5s-g32`  value = (code - 16) * scale, codes 0..31         320 B codes, 16 scales (float16)
`q5s-g64`  likewise, for 64 values                          640 B codes, 16 scales (float16)
`q6-g32`   value = (code - 32) * scale, codes 0..63         384 B codes, 16 scales (float16)
`q6-g64`   likewise, for 64 values                          768 B codes, 16 scales (float16)
`q8-g32`   value = (code - 128) * scale, codes 1..255       512 B codes, 16 scales (float16)
`q8-g64`   likewise, for 64 values                         1024 B codes, 16 scales (float16)
`f16`      value itself, [tiles, in, 16] float16

The codes of 16 rows x 4 values are the operand of a four-way integer dot product, and lie in 64 consecutive
bytes, a *line*: one in each byte, which other operands share. The eight operands of 32 values take as many
lines as a code has bits. Each line holds as many operands as fit whole, from the lowest bits up: four of 2
bits, two of 3 or 4, one of 5, 6 or 8. Of 3, 5 and 6 bits that leaves two or three operands over, and some
bits at the top of each line: there they lie in pieces, lowest bits first, line after line. So unpacking is
a shift and a mask of whole vectors for most operands.

A scale in a byte is 8 times a float16 below 2, without its sign, the upper bit of its exponent and the
lower six of its mantissa, which are all zero: 4 bits of exponent and 4 of mantissa, from 2**-15 to 15.5. A
zero point counts parts of a code, `scheme.zero_step`, so that all of them span the codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.schemes import LINE, SCALE_SHIFT, SCALE_UNIT, SCHEMES, TILE, ZERO_BITS, Scheme

LARGEST_BYTE_SCALE = 15.5
"""The largest scale that a byte holds."""

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]


def packed_shape(scheme: Scheme, shape: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the packed array of a weight `[out, in]`: uint8, or float16 for `f16`."""
    tiles = -(-shape[0] // TILE)
    if scheme.grouped:
        return (tiles, shape[1] // scheme.group, scheme.block_bytes)
    return (tiles, shape[1], TILE)


def packed_bytes(scheme: Scheme, shape: tuple[int, int]) -> int:
    """Size of a weight `[out, in]` in `scheme`, its rows padded to whole tiles.

    >>> from gemcore.schemes import get_scheme
    >>> packed_bytes(get_scheme("q8-g32"), (16, 32)), packed_bytes(get_scheme("f16"), (17, 2))
    (544, 128)
    """
    return math.prod(packed_shape(scheme, shape)) * (1 if scheme.grouped else 2)


@attrs.frozen(kw_only=True, eq=False)
class Quantized:
    """A weight in codes, before packing.

    Attributes:
        codes: uint8 `[out, in]`.
        scales: float16 `[out, in / group]`.
        minima: `[out, in / group]`, or None for symmetric schemes: float16, or float32 where they are
            stored as zero points, `-scale * zero`.
    """

    codes: Codes
    scales: Halves
    minima: Halves | Floats | None = None


def stacked(parts: Sequence[Quantized]) -> Quantized:
    """The rows of several weights of one scheme, one after the other."""
    minima: list[npt.NDArray[Any]] = [part.minima for part in parts if part.minima is not None]
    return Quantized(
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        minima=np.concatenate(minima) if minima else None,
    )


def some_rows(quantized: Quantized, rows: slice) -> Quantized:
    """Some of the rows of a weight."""
    return Quantized(
        codes=quantized.codes[rows],
        scales=quantized.scales[rows],
        minima=None if quantized.minima is None else quantized.minima[rows],
    )


def quantize(weight: Floats, scheme: Scheme) -> Quantized:
    """Round `weight` `[out, in]` to the nearest codes (round-to-nearest, scale from the extremes)."""
    check_finite(weight)
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // scheme.group, scheme.group)
    top = 2**scheme.bits - 1
    if scheme.has_minimum:
        low, high = groups.min(axis=2), groups.max(axis=2)
        if scheme.byte_factors:  # zero is between the ends of every grid
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        with np.errstate(over="ignore"):
            steps = (high - low) / np.float32(top)
        if scheme.byte_factors:
            _check_byte_scales(steps, scheme)
            factors: tuple[Halves, Halves | Floats] = byte_factors(steps, low, scheme.zero_step)
        else:
            factors = _to_halves(steps, scheme), _to_halves(low, scheme)
        scales, minima = factors
        codes = _round_to_codes(groups - minima.astype(np.float32)[..., None], scales, 0, 0, top)
        return Quantized(codes=codes, scales=scales, minima=minima)
    # The value of largest magnitude is the end of the longer side of the grid for few bits (as ggml
    # does). For 8 the grid is symmetric, since the lost code is worth nothing.
    if scheme.bits < 8:
        extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[
            ..., 0
        ]
        scales = _to_halves(extreme / np.float32(-scheme.offset), scheme)
        codes = _round_to_codes(groups, scales, scheme.offset, 0, top)
    else:
        scales = _to_halves(np.abs(groups).max(axis=2) / np.float32(127), scheme)
        codes = _round_to_codes(groups, scales, scheme.offset, 1, top)
    return Quantized(codes=codes, scales=scales)


def dequantize(quantized: Quantized, scheme: Scheme) -> Floats:
    """The float32 values `[out, in]` that the codes stand for."""
    rows, columns = quantized.codes.shape
    codes = quantized.codes.reshape(rows, columns // scheme.group, scheme.group).astype(np.float32)
    values = (codes - np.float32(scheme.offset)) * quantized.scales.astype(np.float32)[..., None]
    if quantized.minima is not None:
        values += quantized.minima.astype(np.float32)[..., None]
    return values.reshape(rows, columns)


def pack(quantized: Quantized, scheme: Scheme) -> Codes:
    """Lay codes, scales and minima out in blocks: uint8 `packed_shape`; rows are padded with zeros."""
    codes = _pad_rows(quantized.codes, fill=scheme.offset)
    tiles, groups, dots = codes.shape[0] // TILE, codes.shape[1] // scheme.group, scheme.group // 4
    packed = np.empty((tiles, groups, scheme.block_bytes), np.uint8)
    # [tile, row, group, dot product, 4] -> [tile, group, dot product, row x 4]
    operands = codes.reshape(tiles, TILE, groups, dots, 4).transpose(0, 2, 3, 1, 4)
    operands = operands.reshape(tiles, groups, dots, LINE)
    packed[:, :, : scheme.code_bytes] = 0
    for dot in range(dots):
        for part in scheme.code_parts(dot):
            bits = ((operands[:, :, dot] >> part.low) & part.mask) << part.shift
            packed[:, :, part.start : part.start + LINE] |= bits
    start = scheme.code_bytes
    for factors in _stored_factors(quantized, scheme):
        tiled = _pad_rows(factors).reshape(tiles, TILE, groups).transpose(0, 2, 1)
        end = start + scheme.factor_bytes
        packed[:, :, start:end] = np.ascontiguousarray(tiled).view(np.uint8)
        start = end
    return packed


def unpack(packed: Codes, scheme: Scheme, rows: int) -> Quantized:
    """Undo `pack`; `rows` is the number of rows before padding."""
    tiles, groups, _ = packed.shape
    dots = scheme.group // 4
    operands = np.zeros((tiles, groups, dots, LINE), np.uint8)
    for dot in range(dots):
        for part in scheme.code_parts(dot):
            bits = (packed[:, :, part.start : part.start + LINE] >> part.shift) & part.mask
            operands[:, :, dot] |= bits << part.low
    codes = operands.reshape(tiles, groups, dots, TILE, 4).transpose(0, 3, 1, 2, 4)
    codes = codes.reshape(tiles * TILE, groups * scheme.group)[:rows]
    factors: list[npt.NDArray[Any]] = []
    for start in range(scheme.code_bytes, scheme.block_bytes, scheme.factor_bytes):
        tiled = np.ascontiguousarray(packed[:, :, start : start + scheme.factor_bytes])
        own: npt.NDArray[Any] = tiled if scheme.byte_factors else tiled.view(np.float16)
        factors.append(own.transpose(0, 2, 1).reshape(tiles * TILE, groups)[:rows])
    if scheme.byte_factors:
        scales = _scales(factors[0])
        minima = _minima(scales, factors[1], scheme.zero_step)
        return Quantized(codes=codes, scales=scales, minima=minima)
    return Quantized(
        codes=codes, scales=factors[0], minima=factors[1] if scheme.has_minimum else None
    )


def byte_factors(
    scales: Floats, minima: Halves | Floats, zero_step: npt.ArrayLike
) -> tuple[Halves, Floats]:
    """The nearest scales and minima that take a byte each: float16 and float32.

    Args:
        scales, minima: float32, of the same shape; scales below 0 become 0, those too large the largest.
        zero_step: `Scheme.zero_step`, or one for each of the last axis.
    """
    parts = np.clip(scales, 0, np.float32(LARGEST_BYTE_SCALE)) / np.float32(SCALE_UNIT)
    bits = parts.astype(np.float16).view(np.uint16)
    half = np.uint16(1 << (SCALE_SHIFT - 1))
    kept = np.minimum((bits + half) >> SCALE_SHIFT, 255).astype(np.uint16)
    short = _scales(kept)
    steps = short.astype(np.float32) * np.asarray(zero_step, np.float32)
    with np.errstate(over="ignore"):
        zeros = np.divide(-minima, steps, out=np.zeros_like(steps), where=steps != 0)
    codes = np.clip(np.rint(zeros), 0, 2**ZERO_BITS - 1).astype(np.uint8)
    return short, _minima(short, codes, zero_step)


def _scales(stored: npt.NDArray[Any]) -> Halves:
    """The scales that bytes stand for."""
    parts = (stored.astype(np.uint16) << SCALE_SHIFT).view(np.float16)
    scales: Halves = parts * np.float16(SCALE_UNIT)
    return scales


def _minima(scales: Halves, zeros: Codes, zero_step: npt.ArrayLike) -> Floats:
    """`-scale * zero`, exactly."""
    exact: Floats = zeros * -np.asarray(zero_step, np.float32) * scales.astype(np.float32)
    return exact


def _stored_factors(quantized: Quantized, scheme: Scheme) -> list[npt.NDArray[Any]]:
    """Scales, then minima, as blocks store them; ValueError where a byte does not hold one exactly."""
    scales, minima = quantized.scales, quantized.minima
    if not scheme.byte_factors:
        return [factors for factors in (scales, minima) if factors is not None]
    assert minima is not None
    short, low = byte_factors(scales.astype(np.float32), minima, scheme.zero_step)
    if not (np.array_equal(short, scales) and np.array_equal(low, minima)):
        raise ValueError(f"scales or minima that scheme {scheme.name} does not have")
    steps = short.astype(np.float32) * np.float32(scheme.zero_step)
    zeros = np.divide(-low, steps, out=np.zeros_like(steps), where=steps != 0)
    parts = short / np.float16(SCALE_UNIT)
    return [(parts.view(np.uint16) >> SCALE_SHIFT).astype(np.uint8), zeros.astype(np.uint8)]


def pack_halves(weight: npt.NDArray[Any]) -> Halves:
    """Lay a float weight `[out, in]` out as `f16`: float16 `[tiles, in, 16]`."""
    padded = _pad_rows(weight)
    largest = float(np.max(np.abs(padded), initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise UsageError(
            f"scheme f16 holds values up to 65504, but the weight reaches {largest:g}: "
            "choose q8-g32, whose scales adapt"
        )
    tiles = padded.reshape(-1, TILE, padded.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles, dtype=np.float16)


def unpack_halves(packed: Halves, rows: int) -> Floats:
    """Undo `pack_halves`: float32 `[out, in]`."""
    return packed.transpose(0, 2, 1).reshape(-1, packed.shape[1])[:rows].astype(np.float32)


def pack_weight(weight: Floats, scheme: Scheme) -> npt.NDArray[Any]:
    """Quantize (round to nearest) and pack a float32 weight `[out, in]`."""
    if not scheme.grouped:
        check_finite(weight)
        return pack_halves(weight)
    return pack(quantize(weight, scheme), scheme)


def unpack_weight(packed: npt.NDArray[Any], scheme: Scheme, rows: int) -> Floats:
    """The float32 values `[out, in]` of a packed weight."""
    if not scheme.grouped:
        return unpack_halves(packed, rows)
    return dequantize(unpack(packed, scheme, rows), scheme)


def check_finite(weight: npt.NDArray[Any]) -> None:
    """Raise UsageError where `weight` holds NaN or infinite values."""
    if not np.isfinite(weight).all():
        raise UsageError("the weight holds NaN or infinite values: it cannot be quantized")


def _round_to_codes(groups: Floats, scales: Halves, offset: int, lowest: int, top: int) -> Codes:
    scale = scales.astype(np.float32)[..., None]
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.rint(groups * inverse) + offset
    clipped: Codes = np.clip(codes, lowest, top).astype(np.uint8)
    return clipped.reshape(groups.shape[0], -1)


def _pad_rows(rows: npt.NDArray[Any], fill: int = 0) -> npt.NDArray[Any]:
    missing = -rows.shape[0] % TILE
    return np.pad(rows, ((0, missing), (0, 0)), constant_values=fill) if missing else rows


def _check_byte_scales(steps: Floats, scheme: Scheme) -> None:
    largest = float(np.max(steps, initial=0.0))
    if largest > LARGEST_BYTE_SCALE:
        wider = f"q{scheme.bits}a-g{scheme.group}"
        raise UsageError(
            f"scheme {scheme.name} has scales up to {LARGEST_BYTE_SCALE}, but this weight needs "
            f"{largest:g}: choose {wider if wider in SCHEMES else 'q8-g32'}, whose scales reach 65504"
        )


def _to_halves(values: Floats, scheme: Scheme) -> Halves:
    """Scales or minima as float16; UsageError where one is too large for it."""
    with np.errstate(over="ignore"):
        halves: Halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise UsageError(
            f"scheme {scheme.name} has float16 scales and minima, up to 65504, but this weight "
            f"needs {float(np.abs(values).max()):g}: its values are too large to be of use"
        )
    return halves
