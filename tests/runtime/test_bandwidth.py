"""How fast memory is read."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from gemcore.errors import GemError
from gemcore.runtime import bandwidth
from gemcore.runtime.bandwidth import clock_hz, largest_cache, memory_bandwidth
from gemcore.runtime.tvm_abi import runtime_library
from gemcore.runtime.tvm_runtime import aligned_zeros, usable_cores, use_threads


@pytest.fixture
def library(tiny_session):
    return tiny_session._executor.library


@pytest.mark.parametrize("threads", range(1, usable_cores() + 1))
@pytest.mark.parametrize("way", range(bandwidth.WAYS))
def test_reading_works_for_any_size_and_changes_nothing(library, threads, way):
    use_threads(library, threads)
    read = ctypes.CDLL(str(library)).gem_read_memory
    for size in (0, 1, 63, 64, 4095, 4096, 100_001):
        memory = aligned_zeros((size,), np.uint8)
        memory[...] = np.arange(size, dtype=np.uint8)
        before = memory.copy()
        address = ctypes.c_void_p(memory.ctypes.data)
        assert read(address, ctypes.c_int64(size), way) == 0
        np.testing.assert_array_equal(memory, before)


def test_the_rate_is_one_that_memory_can_have(library):
    # From less than a disk to more than any memory there is: a wrong unit would be outside.
    assert 1e8 < memory_bandwidth(library, 8 * 2**20) < 1e14


def test_no_room_is_one_sentence(library, monkeypatch):
    def refuse(shape, dtype):
        raise MemoryError

    monkeypatch.setattr(bandwidth, "aligned_zeros", refuse)
    with pytest.raises(GemError, match="takes 256 MB, which are not free: end other programs"):
        memory_bandwidth(library, 256 * 10**6)


def test_a_library_without_the_loop_is_one_sentence():
    with pytest.raises(GemError, match="compile it again$"):
        memory_bandwidth(runtime_library()._name, 4096)
    with pytest.raises(GemError, match="compile it again$"):
        clock_hz(runtime_library()._name)


def test_the_clock_is_one_that_a_processor_can_have(library):
    # A wrong unit, or additions that do not wait for one another, would be outside.
    assert 1e8 < clock_hz(library) < 8e9


def test_the_largest_cache_is_read_from_the_operating_system(tmp_path):
    assert largest_cache(tmp_path) == 0
    for index, size in enumerate(["32K\n", "1024K\n", "36M\n", "nonsense\n", ""]):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size)
    assert largest_cache(tmp_path) == 36 * 2**20
