"""What limits a compiled model on this machine: how fast its threads read memory, and their clock."""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path

import numpy as np

from gemcore.errors import GemError
from gemcore.runtime.instrument import without_measures
from gemcore.runtime.tvm_runtime import aligned_zeros

BYTES = 256 * 2**20
"""Read at the least; more where the processor's caches are large."""

ROUNDS = 5
WAYS = 5
"""Of reading, in `compiler/native/measure.cc`."""

_TIMES_THE_CACHE = 8

_ADDITIONS = 2**16


def memory_bandwidth(library: Path, size: int | None = None) -> float:
    """Bytes a second of a plain sequential read, the fastest of several rounds and ways.

    Uses as many threads as the library does just now. `size` is the bytes to read: by default 256 MiB,
    and at least eight times the largest cache. Raises GemError where there is no room for them.
    """
    size = size or max(BYTES, _TIMES_THE_CACHE * largest_cache())
    try:
        memory = aligned_zeros((size,), np.uint8)
    except MemoryError as error:
        raise GemError(
            f"measuring the memory-bandwidth limit takes {size / 1e6:.0f} MB, which are not free: "
            "end other programs, or leave out --profile"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Looking up many small pages costs time that is not memory's.
        address, length = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size)
        ctypes.CDLL(None).madvise(address, length, mmap.MADV_HUGEPAGE)
    memory.fill(1)  # pages that were never written are all the same one
    code = ctypes.CDLL(str(library))
    try:
        read = code.gem_read_memory
    except AttributeError as error:
        raise without_measures(library) from error
    address, count = ctypes.c_void_p(memory.ctypes.data), ctypes.c_int64(size)
    best = float("inf")
    for turn in range(ROUNDS * WAYS):
        begin = time.perf_counter()
        read(address, count, turn % WAYS)
        best = min(best, time.perf_counter() - begin)
    return size / best


def clock_hz(library: Path) -> float:
    """Cycles a second of the cores that the library's threads run on, while all of them compute.

    By additions that wait for one another, the fastest of several rounds. What the operating system calls
    the clock is often another one: the least that is promised, or that of a counter of time.
    """
    code = ctypes.CDLL(str(library))
    try:
        add = code.gem_add
    except AttributeError as error:
        raise without_measures(library) from error
    add.restype = ctypes.c_int64
    return _ADDITIONS * 1e9 / int(add(ctypes.c_int64(_ADDITIONS)))


def largest_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache of the first core; 0 where the operating system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [0]
    for path in folder.glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text[:-1]) * units[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return max(sizes)
