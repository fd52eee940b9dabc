"""The header of a GGUF file, read by code that trusts no number in it.

Follows the GGUF specification (ggml, `docs/gguf.md`), versions 2 and 3, little endian. Every count
and length is checked against a cap and against the bytes that remain before anything is allocated,
so that a malformed file costs one sentence, quickly.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError
from gemcore.formats.encodings import ENCODINGS, ENCODINGS_BY_CODE, OTHER_CODES, Encoding

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_ENTRIES = 1 << 16
"""The most metadata keys, and the most tensors, that a file may hold."""

MAX_ARRAY_ITEMS = 1 << 20
"""The most items in all arrays of one kind; the largest known vocabularies need half of it."""

MAX_STRING_BYTES = 1 << 24
"""The longest string: chat templates are the longest, below a megabyte."""

MAX_TOTAL_BYTES = 1 << 27
"""The most bytes before the tensor data."""

# The specification allows 65535 bytes; a message that quotes a key should stay readable.
_MAX_KEY_BYTES = 1 << 10
_MAX_TENSOR_NAME_BYTES = 64
_MAX_VALUES = 1 << 48
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16

_STRING, _ARRAY = 8, 9
_BOOL = 7
_SCALARS = MappingProxyType(
    {
        0: struct.Struct("<B"),
        1: struct.Struct("<b"),
        2: struct.Struct("<H"),
        3: struct.Struct("<h"),
        4: struct.Struct("<I"),
        5: struct.Struct("<i"),
        6: struct.Struct("<f"),
        _BOOL: struct.Struct("<B"),
        10: struct.Struct("<Q"),
        11: struct.Struct("<q"),
        12: struct.Struct("<d"),
    }
)
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# The fewest bytes of a key with its value, and of a tensor's description.
_LEAST_ENTRY, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


@attrs.frozen
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        name: GGUF name, for example `blk.0.attn_q.weight`.
        shape: rows first, as in NumPy: `[out, in]` for a linear weight.
        encoding: how it is stored.
        offset: from the beginning of the file, bytes.
        size: bytes.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int
    size: int


@attrs.frozen
class GgufHeader:
    """What a GGUF file says before its tensor data.

    Attributes:
        version: of the format, 2 or 3.
        metadata: values by key: bool, int, float, str, or a list of one of them.
        tensors: in the file's order.
    """

    version: int
    metadata: Mapping[str, Any] = attrs.field(repr=False)
    tensors: tuple[GgufTensor, ...] = attrs.field(repr=False)


def read_header(mapped: npt.NDArray[np.uint8], path: Path) -> GgufHeader:
    """Read and check everything before the tensor data, and where each tensor lies.

    Args:
        mapped: uint8 `[bytes]`, the whole file.
        path: its name, for messages.

    Raises:
        FormatError: the file is malformed, truncated, unsupported or not a GGUF file at all.
    """
    reader = _Reader(mapped.data, path)
    version = _read_version(reader)
    tensor_count = reader.number(_U64, "the number of tensors")
    key_count = reader.number(_U64, "the number of metadata keys")
    reader.check_count(key_count, MAX_ENTRIES, _LEAST_ENTRY, "metadata keys")
    reader.check_count(tensor_count, MAX_ENTRIES, _LEAST_TENSOR, "tensors")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = reader.string(_MAX_KEY_BYTES, "a metadata key")
        if key in metadata:
            reader.fail(f"metadata key '{key}' appears twice")
        kind = reader.number(_U32, f"the type of '{key}'")
        metadata[key] = reader.value(kind, key)
    alignment = _alignment(metadata, reader)
    described = [_read_tensor(reader) for _ in range(tensor_count)]
    tensors = _place(described, reader, alignment)
    return GgufHeader(version, MappingProxyType(metadata), tensors)


def _read_version(reader: _Reader) -> int:
    start = bytes(reader.view[:8])
    if start[:4] != b"GGUF":
        reader.fail(f"it is not a GGUF file: it begins with {start!r}, not with b'GGUF'")
    reader.position = 4
    version = reader.number(_U32, "the version")
    if version not in (2, 3):
        if version & 0xFFFF == 0 and version:
            reader.fail("it is big endian; only little-endian GGUF files are supported")
        reader.fail(f"GGUF version {version} is not supported; versions 2 and 3 are")
    return version


def _alignment(metadata: Mapping[str, Any], reader: _Reader) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if (
        type(alignment) is not int
        or not 8 <= alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        reader.fail(
            f"general.alignment is {alignment!r}; it must be a power of two from 8 to "
            f"{_MAX_ALIGNMENT}"
        )
    return alignment


def _read_tensor(reader: _Reader) -> GgufTensor:
    """Read one tensor's description; its offset still counts from the start of the data."""
    name = reader.string(_MAX_TENSOR_NAME_BYTES, "a tensor name")
    rank = reader.number(_U32, f"the rank of tensor '{name}'")
    if not 1 <= rank <= 4:
        reader.fail(f"tensor '{name}' has {rank} dimensions; 1 to 4 are allowed")
    sizes = [reader.number(_U64, f"the shape of tensor '{name}'") for _ in range(rank)]
    code = reader.number(_U32, f"the type of tensor '{name}'")
    offset = reader.number(_U64, f"the offset of tensor '{name}'")
    encoding = ENCODINGS_BY_CODE.get(code)
    if encoding is None:
        kind = OTHER_CODES.get(code, f"number {code}")
        supported = ", ".join(ENCODINGS)
        reader.fail(f"tensor '{name}' has type {kind}; supported are {supported}")
    count = 1
    for size in sizes:
        count *= size
        if not 0 < count <= _MAX_VALUES:
            reader.fail(f"tensor '{name}' has the impossible shape {sizes[::-1]}")
    if sizes[0] % encoding.block:
        reader.fail(
            f"tensor '{name}' has rows of {sizes[0]} values, which are not whole {encoding.name} "
            f"blocks of {encoding.block}"
        )
    size_in_bytes = count // encoding.block * encoding.block_bytes
    return GgufTensor(name, tuple(sizes[::-1]), encoding, offset, size_in_bytes)


def _place(described: list[GgufTensor], reader: _Reader, alignment: int) -> tuple[GgufTensor, ...]:
    """Turn offsets into places in the file, checked: aligned, inside, apart, of different names."""
    base = -(-reader.position // alignment) * alignment
    placed = []
    names: set[str] = set()
    for tensor in described:
        if tensor.name in names:
            reader.fail(f"tensor '{tensor.name}' appears twice")
        names.add(tensor.name)
        if tensor.offset % alignment:
            reader.fail(
                f"tensor '{tensor.name}' lies at offset {tensor.offset}, which is not a multiple "
                f"of the alignment, {alignment}"
            )
        end = base + tensor.offset + tensor.size
        if end > reader.size:
            reader.fail(
                f"the data of tensor '{tensor.name}' ends at byte {end}, but the file has only "
                f"{reader.size} bytes; it is truncated or damaged, so fetch it again"
            )
        placed.append(attrs.evolve(tensor, offset=base + tensor.offset))
    in_order = sorted(placed, key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_order):
        if before.offset + before.size > after.offset:
            reader.fail(f"the data of tensors '{before.name}' and '{after.name}' overlap")
    return tuple(placed)


class _Reader:
    """A position in the mapped file, and reads that never leave it."""

    def __init__(self, view: memoryview, path: Path) -> None:
        self.view = view
        self.path = path
        self.size = len(view)
        self.limit = min(self.size, MAX_TOTAL_BYTES)
        self.position = 0
        self.items_left = {True: MAX_ARRAY_ITEMS, False: MAX_ARRAY_ITEMS}

    def fail(self, reason: str) -> NoReturn:
        raise FormatError(f"{self.path} cannot be used: {reason}")

    def take(self, length: int, what: str) -> int:
        """Step over `length` bytes and return where they begin."""
        start = self.position
        if length > self.limit - start:
            if length <= self.size - start:
                self.fail(f"its metadata is larger than {MAX_TOTAL_BYTES} bytes")
            self.fail(
                f"{what} needs {length} bytes at byte {start}, but only {self.size - start} "
                "remain; the file is truncated or damaged, so fetch it again"
            )
        self.position = start + length
        return start

    def number(self, layout: struct.Struct, what: str) -> int:
        value: int = layout.unpack_from(self.view, self.take(layout.size, what))[0]
        return value

    def check_count(self, count: int, cap: int, least: int, what: str) -> None:
        if count > cap:
            self.fail(f"it claims {count} {what}, more than the {cap} allowed")
        if count * least > self.size - self.position:
            self.fail(
                f"it claims {count} {what}, for which the remaining {self.size - self.position} "
                "bytes have no room; the file is truncated or damaged, so fetch it again"
            )

    def string(self, cap: int, what: str) -> str:
        length = self.number(_U64, what)
        if length > cap:
            self.fail(f"{what} claims a length of {length} bytes, more than the {cap} allowed")
        start = self.take(length, what)
        text = self.decode(start, length, what)
        if cap <= _MAX_KEY_BYTES and not (text and text.isprintable()):
            # Names appear in messages, and must not be able to steer a terminal.
            self.fail(f"{what} is empty or holds unprintable characters: {text!r}")
        return text

    def decode(self, start: int, length: int, what: str) -> str:
        try:
            return str(self.view[start : start + length], "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not valid UTF-8")

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.string(MAX_STRING_BYTES, f"the value of '{key}'")
        if kind == _ARRAY:
            return self.array(key)
        layout = _SCALARS.get(kind)
        if layout is None:
            self.fail(f"the value of '{key}' has the unknown type {kind}")
        value = layout.unpack_from(self.view, self.take(layout.size, f"the value of '{key}'"))[0]
        if kind == _BOOL:
            if value > 1:
                self.fail(f"the value of '{key}' is a truth value of {value}; it must be 0 or 1")
            return bool(value)
        return value

    def array(self, key: str) -> list[Any]:
        what = f"the array '{key}'"
        kind = self.number(_U32, what)
        count = self.number(_U64, what)
        layout = _SCALARS.get(kind)
        if kind == _ARRAY:
            self.fail(f"{what} holds arrays; arrays in arrays are not supported")
        if layout is None and kind != _STRING:
            self.fail(f"{what} has items of the unknown type {kind}")
        left = self.items_left[layout is None]
        self.check_count(count, left, 8 if layout is None else layout.size, f"items in {what}")
        self.items_left[layout is None] = left - count
        if layout is None:
            return self.strings(count, what)
        start = self.take(count * layout.size, what)
        values = np.frombuffer(self.view, np.dtype(layout.format), count, start)
        if kind == _BOOL:
            if count and values.max() > 1:
                self.fail(f"{what} holds truth values other than 0 and 1")
            values = values.astype(np.bool_)
        items: list[Any] = values.tolist()
        return items

    def strings(self, count: int, what: str) -> list[str]:
        # A vocabulary has a hundred thousand of these: one flat loop, and one slice of the file,
        # which bounds every read below.
        view, position, limit = self.view, self.position, self.limit
        length_at = _U64.unpack_from
        items = []
        for _ in range(count):
            start = position + 8
            if start > limit:
                self.position = position
                self.take(8, what)
            length = length_at(view, position)[0]
            if length > limit - start:
                self.position = start
                self.take(length, f"a string in {what}")
            position = start + length
            try:
                items.append(str(view[start:position], "utf-8"))
            except UnicodeDecodeError:
                self.fail(f"a string in {what} is not valid UTF-8")
        self.position = position
        return items
