"""TVM's runtime alone: a few megabytes and no Python of TVM's own, so a bundle opens at once."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError, UsageError

ALIGNMENT = 64
"""Bytes that compiled code expects arrays to be aligned to."""

_CPU, _NAIVE, _POOLED = 1, 1, 2  # DLPack's device type, and TVM's allocators


@functools.cache
def ffi() -> ModuleType:
    """The `tvm_ffi` module with TVM's runtime library loaded into it."""
    with _without("torch"):
        tvm_ffi = importlib.import_module("tvm_ffi")
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise GemError("TVM is not installed: run 'pip install apache-tvm==0.27.0.post1'")
    library = Path(spec.origin).parent / "lib" / "libtvm_runtime.so"
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise GemError(f"TVM's runtime library cannot be loaded: {error}") from error
    return tvm_ffi


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Hide a module for a while: tvm_ffi imports torch when it finds it, which takes a second."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def load_function(library: Path, name: str, *, pooled: bool) -> Callable[..., Any]:
    """The function `name` of a Relax executable; GemError when the library cannot be loaded.

    With `pooled`, memory between kernels is kept for the next call of the same sizes, and never given
    back: right for calls that are all alike.
    """
    tvm_ffi = ffi()
    try:
        machine = tvm_ffi.load_module(str(library))["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED if pooled else _NAIVE)
        function: Callable[..., Any] = machine[name]
    except (RuntimeError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise GemError(f"the compiled model '{library}' cannot be loaded: {reason}") from error
    return function


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(library: Path, count: int) -> None:
    """Let the parallel loops of `library` use `count` threads, the caller's included.

    Raises UsageError for less than one thread and for more than there are cores: they would only
    take turns.
    """
    cores = usable_cores()
    if not 1 <= count <= cores:
        raise UsageError(
            f"threads must be from 1 to {cores}, the cores of this machine, not {count}"
        )
    # This handle is never closed, so the code stays where the threads of the pool run.
    if ctypes.CDLL(str(library)).gem_use_threads(count) != 0:
        raise GemError(f"the threads of the compiled model '{library}' cannot be set to {count}")


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """A TVM tensor on the memory of a NumPy array, which must be aligned and contiguous."""
    return ffi().from_dlpack(array)


def as_array(tensor: Any) -> npt.NDArray[Any]:
    """A NumPy array on the memory of a TVM tensor."""
    return np.from_dlpack(tensor)


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros at an aligned address; pages that are never touched take no memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is aligned, contiguous and writable by DLPack; else a copy that is."""
    if array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy
