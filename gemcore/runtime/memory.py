"""How much memory this process has used."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from pathlib import Path

_MMAP_THRESHOLD = -3
"""What `mallopt` knows M_MMAP_THRESHOLD by (glibc's malloc.h)."""


def peak_memory_bytes() -> int:
    """The most physical memory that this process has used so far, mapped files included.

    Linux's own count of the process: `ru_maxrss` may be that of the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_free_memory() -> None:
    """Give memory that was freed, but is still kept for later, back to the system.

    glibc keeps what lies below anything that is still in use: after a large file was parsed, that is
    most of what parsing took. With another C library nothing happens.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_large_blocks_apart() -> None:
    """Have the C library map blocks of 1 MiB and more one by one, so that each goes when it is freed.

    glibc does so at first, but puts ever larger blocks among the small ones once it saw such a block
    freed. Small blocks then settle in between, and what a pass needs for a moment stays for good, a
    few megabytes more or less each time. With another C library nothing happens.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)


def return_code_pages() -> None:
    """Unmap the pages of programs and libraries; those that still run come back at once.

    Half of them were only needed to start, and would count as this process's memory until the machine
    runs short of it. Linux keeps them in its file cache, so no page is read from disk again. Only
    mappings of files that may not be written, and of which no page was ever changed, are touched. On
    another system nothing happens.
    """
    library = ctypes.CDLL(None)
    for start, size in _unchanged_file_mappings():
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _unchanged_file_mappings() -> list[tuple[int, int]]:
    """Address and size of what is mapped from files, cannot be written, and was never changed."""
    found: list[tuple[int, int]] = []
    addresses, of_a_file = b"", False
    with suppress(OSError), Path("/proc/self/smaps").open("rb") as lines:
        for line in lines:
            name, _, values = line.partition(b" ")
            if not name.endswith(b":"):
                # 7f00-7f80 r-xp 00001000 08:01 1234 /usr/lib/libc.so
                permissions, _, _, inode, *_ = values.split()
                addresses, of_a_file = name, permissions in (b"r-xp", b"r--p") and inode != b"0"
            elif name == b"Anonymous:" and of_a_file and values.split()[0] == b"0":
                start, end = (int(address, 16) for address in addresses.split(b"-"))
                found.append((start, end - start))
    return found
