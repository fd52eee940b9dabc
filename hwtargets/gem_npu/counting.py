"""What each kernel of a model takes on the emulated processor: packets, never a time.

A packet holds up to four instructions that start together. Their number is the same in every run, and so
compares programs fairly; how long the device takes depends on its memory and on what waits for what.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

VARIABLE = "GEM_COUNTS"
"""Environment variable that names the file to count into."""

_ROW = struct.Struct("<104s4Q")


@attrs.frozen(kw_only=True)
class Counts:
    """What qemu counted.

    Attributes:
        packets: packets of instructions.
        instructions: single instructions.
        vectors: those of the vector unit, HVX.
        calls: of the kernel.
    """

    packets: int = 0
    instructions: int = 0
    vectors: int = 0
    calls: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f: a + getattr(other, f) for f, a in attrs.asdict(self).items()})

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{f: a - getattr(other, f) for f, a in attrs.asdict(self).items()})


def read_counts(path: Path) -> dict[str, Counts]:
    """What each kernel has taken so far, by its name; nothing before the first pass."""
    data = path.read_bytes() if path.exists() else b""
    return dict(_rows(data[: len(data) // _ROW.size * _ROW.size]))


def _rows(data: bytes) -> Iterator[tuple[str, Counts]]:
    for name, calls, packets, instructions, vectors in _ROW.iter_unpack(data):
        kernel = name.rstrip(b"\0").decode()
        if kernel:
            yield (
                kernel,
                Counts(calls=calls, packets=packets, instructions=instructions, vectors=vectors),
            )


def since(now: Mapping[str, Counts], then: Mapping[str, Counts]) -> dict[str, Counts]:
    """What was taken between two readings, of kernels that were called."""
    difference = {kernel: counts - then.get(kernel, Counts()) for kernel, counts in now.items()}
    return {kernel: counts for kernel, counts in difference.items() if counts.calls}


def total(counts: Mapping[str, Counts]) -> Counts:
    """Of all kernels together."""
    return sum(counts.values(), Counts())
