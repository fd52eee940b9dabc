"""What a process says of its memory, and what it gives back."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys

import pytest

from gemcore.runtime.memory import _unchanged_file_mappings, peak_memory_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells")

START = """
from pathlib import Path
from gemcore.runtime.memory import (
    keep_large_blocks_apart, peak_memory_bytes, return_code_pages, return_free_memory
)
def resident(name="VmRSS:"):
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))
"""


def numbers(program: str) -> list[int]:
    """What a program prints, run in a process of its own, for its memory is to be known."""
    command = [sys.executable, "-c", START + program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_the_peak_counts_what_is_gone_again():
    before, after = numbers(
        "print(peak_memory_bytes()); block = b'1' * 50_000_000; del block;print(peak_memory_bytes())"
    )
    assert 45_000_000 < after - before < 60_000_000


def test_the_peak_is_that_of_this_process_and_not_of_its_parent():
    block = b"1" * 100_000_000
    (peak,) = numbers("print(peak_memory_bytes())")
    assert peak < len(block) < peak_memory_bytes()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_memory_that_was_freed_is_given_back():
    full, kept, given_back = numbers(
        """
blocks = [bytearray(50_000) for _ in range(1000)]
pin = bytearray(50_000)
print(resident())
del blocks
print(resident())
return_free_memory()
print(resident())
"""
    )
    assert full - given_back > 40_000
    assert kept >= given_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc mixes blocks by size")
@pytest.mark.parametrize("apart", [True, False])
def test_large_blocks_go_when_they_are_freed_only_if_they_lie_apart(apart):
    full, left = numbers(
        f"""
if {apart}:
    keep_large_blocks_apart()
# After this one, glibc no longer thinks that 2 MB are much.
block = b"1" * 30_000_000
del block
blocks = [b"1" * 2_000_000 for _ in range(20)]
pin = b"1" * 1000
print(resident())
del blocks
print(resident())
"""
    )
    assert (full - left > 35_000) == apart


def test_code_that_does_not_run_takes_no_memory_and_all_still_works():
    before, after, right = numbers(
        """
import numpy, json, hashlib, re
def work():
    digest = hashlib.sha256(json.dumps(list(range(99))).encode()).hexdigest()
    return digest, float(numpy.linalg.det(numpy.eye(3) * 2)), re.sub("a+", "b", "caat")
first = work()
print(resident("RssFile:"))
return_code_pages()
print(resident("RssFile:"))
print(int(work() == first))
"""
    )
    assert after < before * 0.7
    assert right


def test_only_file_mappings_that_nobody_can_change_are_let_go(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * mmap.PAGESIZE)
    ways = {
        "read only": {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ},
        "writable": {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE},
        "shared": {"flags": mmap.MAP_SHARED, "prot": mmap.PROT_READ},
    }
    with path.open("r+b") as file:
        mapped = {name: mmap.mmap(file.fileno(), 0, **way) for name, way in ways.items()}
    anonymous = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anonymous[:1] = b"y"
    found = _unchanged_file_mappings()
    assert found
    import numpy as np

    def is_found(memory: mmap.mmap) -> bool:
        address = np.frombuffer(memory, np.uint8).ctypes.data
        return any(start <= address < start + size for start, size in found)

    assert {name: is_found(memory) for name, memory in mapped.items()} == {
        "read only": True,
        "writable": False,
        "shared": False,
    }
    assert not is_found(anonymous)
