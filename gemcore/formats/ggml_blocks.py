"""ggml's blocks of 32 values as codes, so that they can be repacked without any rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.packing import Quantized
from gemcore.schemes import GROUP, Scheme

LOSSLESS_SCHEMES = {
    "Q4_1": "q4a-g32",
    "Q4_0": "q4s-g32",
    "Q5_1": "q5a-g32",
    "Q5_0": "q5s-g32",
    "Q8_0": "q8-g32",
    "F16": "f16",
}
"""Encodings that a packing scheme holds exactly."""


def codes_from_blocks(encoding: str, data: npt.NDArray[np.uint8]) -> Quantized:
    """The codes of a tensor of 4, 5 or 8 bits: `data` is uint8 `[rows, bytes a row]`.

    A block is a float16 scale, for Q4_1 and Q5_1 a float16 minimum, then the codes: for 4 bits the first 16
    values in the low nibbles of 16 bytes and the others in the high ones. For 5 bits the highest bits of
    all 32 come before, in four bytes, lowest bits first.
    """
    rows = data.shape[0]
    size = {"Q4_1": 20, "Q4_0": 18, "Q5_1": 24, "Q5_0": 22, "Q8_0": 34}[encoding]
    blocks = data.reshape(rows, -1, size)
    columns = blocks.shape[1] * GROUP
    scales = _halves(blocks, 0)
    if encoding == "Q8_0":
        # Codes are signed there and have an offset of 128 here: flipping the top bit adds it.
        signed = blocks[:, :, 2:] ^ np.uint8(128)
        return Quantized(codes=signed.reshape(rows, columns), scales=scales)
    minima = _halves(blocks, 2) if encoding in ("Q4_1", "Q5_1") else None
    both = blocks[:, :, size - 16 :]
    codes = np.concatenate([both & np.uint8(15), both >> np.uint8(4)], axis=2)
    if encoding in ("Q5_1", "Q5_0"):
        high = blocks[:, :, size - 20 : size - 16]
        codes |= np.unpackbits(high, axis=2, bitorder="little") << np.uint8(4)
    return Quantized(codes=codes.reshape(rows, columns), scales=scales, minima=minima)


def encoding_for(*schemes: Scheme) -> str | None:
    """The smallest encoding that holds every value of some packing schemes; None where none does.

    It holds them exactly, but for minima that are stored as zero points: those it rounds to float16.
    """
    if not any(scheme.grouped for scheme in schemes):
        return "F16"
    minimum = {scheme.has_minimum for scheme in schemes if scheme.grouped}
    if len(minimum) > 1 or not all(scheme.grouped for scheme in schemes):
        return None
    widths = {4: "Q4_1", 5: "Q5_1"} if minimum.pop() else {4: "Q4_0", 5: "Q5_0", 8: "Q8_0"}
    most = max(scheme.bits for scheme in schemes)
    return next((name for bits, name in widths.items() if most <= bits), None)


def blocks_from_codes(
    quantized: Quantized, scheme: Scheme, encoding: str | None = None
) -> npt.NDArray[np.uint8]:
    """The blocks of an encoding, uint8 `[rows, bytes a row]`; `codes_from_blocks` undoes it.

    Larger groups become blocks of 32 values with one scale, and codes of fewer bits move to the middle of
    the wider grid. `encoding` is `encoding_for` the scheme, and maybe for others beside it.
    """
    encoding = encoding or encoding_for(scheme)
    assert encoding is not None, scheme.name
    rows, columns = quantized.codes.shape
    shape = (rows, columns // GROUP, GROUP)
    halves = [quantized.scales, *([] if quantized.minima is None else [quantized.minima])]
    heads = [
        np.ascontiguousarray(np.repeat(half, scheme.group // GROUP, axis=1)[..., None], "<f2").view(
            np.uint8
        )
        for half in halves
    ]
    if encoding == "Q8_0":
        signed = (quantized.codes.astype(np.int16) - scheme.offset).astype(np.int8)
        parts = [*heads, signed.view(np.uint8).reshape(shape)]
    else:
        offset = {"Q4_0": 8, "Q5_0": 16}.get(encoding, 0)
        codes = (quantized.codes + np.uint8(offset - scheme.offset)).reshape(shape)
        if encoding.startswith("Q5"):
            heads.append(np.packbits(codes >> 4, axis=2, bitorder="little"))
        low, high = codes[..., : GROUP // 2] & np.uint8(15), codes[..., GROUP // 2 :] & np.uint8(15)
        parts = [*heads, low | (high << np.uint8(4))]
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def _halves(blocks: npt.NDArray[Any], start: int) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, :, start : start + 2]).view(np.float16)[:, :, 0]
