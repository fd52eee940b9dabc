"""The header of a safetensors file, checked before any tensor is mapped.

The rules are those of the format's own reference implementation: a bounded header, no duplicate
keys, every byte of data belonging to exactly one tensor (no overlaps, no holes), sizes that agree.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from gemcore.errors import FormatError
from gemcore.formats.encodings import ENCODINGS
from gemcore.formats.json_file import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

MAX_HEADER_BYTES = 100_000_000
"""The longest header, as in the reference implementation."""

_MAX_RANK = 8
_SIZES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
        "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
    }
)  # fmt: skip


@attrs.frozen
class SafeTensor:
    """Where one tensor lies.

    Attributes:
        name: as in the file.
        dtype: as in the file, for example F32 or BF16.
        shape: rows first; empty for a single number.
        offset: from the beginning of the file, bytes.
        size: bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_safetensors_header(mapped: npt.NDArray[np.uint8], path: Path) -> tuple[SafeTensor, ...]:
    """Read and check the header.

    Args:
        mapped: uint8 `[bytes]`, the whole file.
        path: its name, for messages.

    Returns:
        Every tensor, in the order of their data.

    Raises:
        FormatError: the file is malformed or truncated.
    """
    view = mapped.data
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > MAX_HEADER_BYTES or 8 + length > len(view):
        _fail(
            path,
            f"it claims a header of {length} bytes in a file of {len(view)}; it is truncated, "
            "damaged or not a safetensors file",
        )
    text = bytes(view[8 : 8 + length])
    if not text.startswith(b"{"):
        _fail(path, f"its header begins with {text[:8]!r}, not with b'{{'")
    header = parse_object(text, f"the header of {path}")
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = [_read_entry(name, entry, start, path) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    for tensor in tensors:
        if tensor.offset != start:
            kind = "overlaps another" if tensor.offset < start else "leaves a hole before it"
            _fail(path, f"the data of tensor '{tensor.name}' {kind}")
        start = tensor.offset + tensor.size
    if start != len(view):
        _fail(
            path,
            f"its tensors end at byte {start}, but the file has {len(view)} bytes; it is "
            "truncated or damaged, so fetch it again",
        )
    return tuple(tensors)


def _read_entry(name: str, entry: Any, start: int, path: Path) -> SafeTensor:
    if not (name and name.isprintable() and len(name) <= 1024):
        _fail(path, f"a tensor has an unusable name: {name[:40]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _fail(path, f"tensor '{name}' must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        _fail(path, f"tensor '{name}' has the unknown type {dtype!r:.40}")
    if not _is_sizes(shape) or len(shape) > _MAX_RANK:
        _fail(path, f"tensor '{name}' has the impossible shape {shape!r:.80}")
    if not _is_sizes(offsets) or len(offsets) != 2:
        _fail(path, f"tensor '{name}' has impossible data offsets {offsets!r:.80}")
    size = _SIZES[dtype]
    for length in shape:
        size *= length
    begin, end = offsets
    if end - begin != size:
        _fail(
            path,
            f"tensor '{name}' of type {dtype} and shape {shape!r:.80} needs {size} bytes, but its "
            f"data has {end - begin}",
        )
    return SafeTensor(name, dtype, tuple(shape), start + begin, size)


def _is_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 48 for value in values
    )


def _fail(path: Path, reason: str) -> NoReturn:
    raise FormatError(f"{path} cannot be used: {reason}")


def supported_dtypes() -> tuple[str, ...]:
    """Types that weights may have: those that are also GGUF encodings of single values.

    >>> supported_dtypes()
    ('F32', 'F16', 'BF16')
    """
    return tuple(name for name, encoding in ENCODINGS.items() if not encoding.is_blocked)
