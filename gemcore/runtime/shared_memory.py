"""Memory that this process shares with a program that it starts."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64 * 1024  # bytes: no machine has larger pages
_PUNCH_HOLE = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


class SharedMemory:
    """A file without a name, of which arrays take pieces; pages that are never touched take no memory.

    Attributes:
        descriptor: of the file, for the other program to inherit.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("gem")
        self._end = 0
        self._offsets: dict[int, int] = {}
        self._close = weakref.finalize(self, os.close, self.descriptor)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of zeros in the shared file."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        begin, self._end = self._end, self._end + -(-size // _ALIGNMENT) * _ALIGNMENT
        os.ftruncate(self.descriptor, self._end)
        piece = mmap.mmap(self.descriptor, size, mmap.MAP_SHARED, offset=begin)
        array: npt.NDArray[Any] = np.frombuffer(piece, dtype).reshape(shape)
        self._offsets[array.ctypes.data] = begin
        return array

    def offset(self, array: npt.NDArray[Any]) -> int:
        """Where in the file an array of `zeros` begins; KeyError for another one."""
        return self._offsets[array.ctypes.data]
