"""How stored values become float32: the encodings of GGUF and safetensors files.

The block encodings and their type numbers are those of ggml (`ggml-common.h`, `ggml.h`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError

Decoder = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


@attrs.frozen
class Encoding:
    """One way to store numbers.

    Attributes:
        name: GGUF name.
        code: ggml type number.
        block: values in one block, along a row.
        block_bytes: bytes of one block.
    """

    name: str
    code: int
    block: int
    block_bytes: int

    @property
    def is_blocked(self) -> bool:
        """Values come in blocks with shared scales, not one by one."""
        return self.block > 1


_TABLE = (
    Encoding("F32", 0, 1, 4),
    Encoding("F16", 1, 1, 2),
    Encoding("BF16", 30, 1, 2),
    Encoding("Q8_0", 8, 32, 34),
    Encoding("Q4_0", 2, 32, 18),
    Encoding("Q4_1", 3, 32, 20),
    Encoding("Q5_0", 6, 32, 22),
    Encoding("Q5_1", 7, 32, 24),
    Encoding("Q4_K", 12, 256, 144),
    Encoding("Q5_K", 13, 256, 176),
    Encoding("Q6_K", 14, 256, 210),
)

ENCODINGS = MappingProxyType({encoding.name: encoding for encoding in _TABLE})
"""Every supported encoding by its GGUF name."""

ENCODINGS_BY_CODE = MappingProxyType({encoding.code: encoding for encoding in _TABLE})
"""Every supported encoding by its ggml type number."""

# Only to name, in an error, what a file holds that is not supported.
OTHER_CODES = MappingProxyType(
    {
        9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
        18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
        24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
        34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    }
)  # fmt: skip
"""ggml types that exist and are not supported."""

_NUMPY_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
)


def decode_floats(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Widen float32 or float16 to a fresh float32 array of the same shape."""
    return data.astype(np.float32)


def decode_bfloat16(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Widen bfloat16, held as uint16, to float32: its bits are the upper half of a float32's."""
    widened: npt.NDArray[np.float32] = (data.astype(np.uint32) << 16).view(np.float32)
    return widened


def decoder_of(encoding: str) -> Decoder:
    """The function that turns data of `encoding` into float32.

    Block encodings go from uint8 `[rows, bytes a row]` to float32 `[rows, values a row]` through
    `gguf.quants`, the reference implementation in NumPy, which is imported at the first call.
    """
    if encoding == "BF16":
        return decode_bfloat16
    if encoding in _NUMPY_TYPES:
        return decode_floats
    code = ENCODINGS[encoding].code

    def decode_blocks(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        from gguf import GGMLQuantizationType, quants

        # A scale may be infinite or NaN in a broken file; the values say so, a warning need not.
        with np.errstate(all="ignore"):
            values: npt.NDArray[np.float32] = quants.dequantize(data, GGMLQuantizationType(code))
        return values

    return decode_blocks


def view_of(
    mapped: npt.NDArray[np.uint8], offset: int, shape: tuple[int, ...], encoding: str
) -> npt.NDArray[Any]:
    """See the bytes of one tensor in a mapped file as an array, without copying.

    Args:
        mapped: uint8 `[bytes]`, the whole file.
        offset: where the tensor begins.
        shape: its logical shape; a row is the last axis, and whole blocks.
        encoding: GGUF name of how it is stored.

    Returns:
        float32 or float16 of `shape`; uint16 of `shape` for BF16; uint8 `[rows, bytes a row]` for
        block encodings.

    Raises:
        FormatError: the tensor does not lie in the file. Callers check this first, with a better
            sentence; it is here so that no view is ever made from unchecked numbers.
    """
    known = ENCODINGS[encoding]
    count = 1
    for size in shape:
        count *= size
    size_in_bytes = count // known.block * known.block_bytes
    if offset < 0 or offset + size_in_bytes > mapped.size:
        raise FormatError(
            f"tensor data of {size_in_bytes} bytes at {offset} lies outside {mapped.size} bytes"
        )
    stored = mapped[offset : offset + size_in_bytes]
    if known.is_blocked:
        return stored.reshape(-1, shape[-1] // known.block * known.block_bytes)
    values: npt.NDArray[Any] = stored.view(_NUMPY_TYPES[encoding]).reshape(shape)
    return values
