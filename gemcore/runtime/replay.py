"""Passes of one token, made again without TVM's virtual machine: see `compiler/native/replay.cc`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError
from gemcore.runtime.tvm_abi import Tensor, raised_error


class Replay:
    """The calls of one pass, with the memory that they work in.

    Args:
        library: the compiled model.
        run: makes the pass once, in a virtual machine whose instrument is the library's `gem_capture`.

    Attributes:
        result: what `run` returned; each replay writes it anew.
        calls: how many calls there are; None where the pass cannot be replayed, since it might decide
            something anew with every token.
    """

    def __init__(self, library: Path, run: Callable[[], Tensor]) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.gem_begin_capture.restype = ctypes.c_void_p
        self._library.gem_end_capture.restype = ctypes.c_int64
        self._plan = ctypes.c_void_p(self._library.gem_begin_capture())
        try:
            self.result = run()
        finally:
            count = self._library.gem_end_capture()
        self.calls: int | None = count if self._plan.value and count >= 0 else None

    def __call__(self, times: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Make the pass again, with what lies in its inputs now, and return `result`.

        `times` `[calls + 1]` gets nanoseconds from any one point of time on: before each call, and after
        the last. GemError when a kernel fails.
        """
        into = None if times is None else ctypes.c_void_p(times.ctypes.data)
        if self._library.gem_replay(self._plan, into) != 0:
            raise GemError(f"the compiled model failed: {raised_error()}")
        return self.result

    def __del__(self) -> None:
        plan: Any = getattr(self, "_plan", None)
        if plan:
            self._library.gem_free_plan(plan)
