"""What running a compiled model needs of TVM: its functions, its threads, arrays that it can use."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError, UsageError
from gemcore.runtime.tvm_abi import Function, Tensor, global_function, runtime_library, tensor_on

ALIGNMENT = 64
"""Bytes that compiled code expects arrays to be aligned to."""

CAPTURE = "gem_capture"
"""The library's instrument that notes what a pass calls; see `gemcore.runtime.replay`."""

_OWN_PAGES = 64 * 1024  # bytes

_CPU, _NAIVE, _POOLED = 1, 1, 2  # DLPack's device type, and TVM's allocators


def ffi() -> ModuleType:
    """The package `tvm_ffi` with TVM's runtime loaded, for what only its Python can do.

    Running a model goes without it, for its memory and the time that it takes to import.
    """
    runtime_library()
    with _without("torch"):
        return importlib.import_module("tvm_ffi")


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


def load_function(library: Path, name: str, *, pooled: bool, instrument: Any = None) -> Function:
    """The function `name` of a Relax executable; GemError when the library cannot be loaded.

    With `pooled`, memory between kernels is kept for the next call of the same sizes, and never given
    back: right for calls that are all alike. `instrument` is called around everything that the function
    calls: see `gemcore.runtime.instrument`; a text names a function of the library.
    """
    try:
        module = global_function("ffi.ModuleLoadFromFile")(str(library))
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED if pooled else _NAIVE)
        if instrument is not None:
            if isinstance(instrument, str):
                # The virtual machine's code comes first, and imports what is linked in.
                found = global_function("ffi.ModuleGetFunction")(module, instrument, True)
                if found is None:
                    raise KeyError(instrument)
                instrument = found
            machine["set_instrument"](instrument)
        function: Function = machine[name]
        return function
    except KeyError as error:
        reason = f"it has no function {error}"
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
    raise GemError(f"the compiled model '{library}' cannot be loaded: {reason}")


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


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A TVM tensor on the memory of a NumPy array, which must be aligned and contiguous."""
    return tensor_on(array)


def as_array(tensor: Any) -> npt.NDArray[Any]:
    """A NumPy array on the memory of a TVM tensor, or of one of the package `tvm_ffi`."""
    return np.asarray(tensor) if isinstance(tensor, Tensor) else np.from_dlpack(tensor)


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros at an aligned address; pages that are never touched take no memory.

    Large arrays get pages of their own. From `malloc`, memory that was in use before would come back,
    which has to be written to be zero, and which stays with the process when the array is gone.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size >= _OWN_PAGES:
        private = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
        return np.frombuffer(private, dtype).reshape(shape)
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
