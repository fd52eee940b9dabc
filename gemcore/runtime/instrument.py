"""Looking at a compiled model while it runs: what it calls, and how long each call takes.

TVM's virtual machine calls an instrument before and after everything that it calls: kernels, and functions
of its own for memory and shapes. There are two, for two runs of the same passes: `CallLog`, in Python,
which sees the arguments but takes microseconds; and the clock that is linked into every model
(`compiler/native/measure.cc`), which keeps the time and does nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError
from gemcore.models.config import ModelConfig
from gemcore.runtime.executor import NativeExecutor
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.traffic import Argument, Traffic, kernel_traffic
from gemcore.runtime.tvm_runtime import aligned_zeros, as_array, ffi

BUILTIN = "vm.builtin."
"""What the names of the virtual machine's own functions begin with."""


@attrs.frozen(kw_only=True)
class Call:
    """One call that calls nothing else.

    Attributes:
        name: of the kernel, or of the virtual machine's own function.
        begin, end: which of the instrument's calls, counted from 0, came before it and after it.
        traffic: what it moves; None for the virtual machine's own functions.
    """

    name: str
    begin: int
    end: int
    traffic: Traffic | None


class CallLog:
    """An instrument that notes names and traffic.

    Args:
        weights: addresses of the weights.
    """

    def __init__(self, weights: Iterable[int]) -> None:
        self._weights = frozenset(weights)
        self._caches: frozenset[int] = frozenset()
        self._calls: list[Call] = []
        # Name, traffic, number of its first event, and whether it has called something.
        self._open: list[tuple[str, Traffic | None, int, list[bool]]] = []
        self._events = 0
        self.instrument = ffi().convert(self._note)

    def start(self) -> None:
        """Forget what was noted."""
        self._calls, self._open, self._events = [], [], 0

    def use_caches(self, tensors: Iterable[Any]) -> None:
        """What lies where these tensors lie is the cache of the passes that follow."""
        self._caches = frozenset(tensor.data_ptr() for tensor in tensors)

    @property
    def events(self) -> int:
        """How often the instrument was called since `start`."""
        return self._events

    def calls(self) -> list[Call]:
        """What was called since `start`, in order of their ends."""
        return self._calls

    def _note(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> None:
        event, self._events = self._events, self._events + 1
        if before:
            traffic = None if name.startswith(BUILTIN) else self._traffic(name, arguments)
            if self._open:
                self._open[-1][3].append(True)
            self._open.append((name, traffic, event, []))
            return
        name, traffic, begin, inner = self._open.pop()
        if not inner:
            self._calls.append(Call(name=name, begin=begin, end=event, traffic=traffic))

    def _traffic(self, name: str, arguments: Sequence[Any]) -> Traffic:
        tensors = [argument for argument in arguments if hasattr(argument, "data_ptr")]
        return kernel_traffic(
            name,
            [
                Argument(
                    array=as_array(tensor),
                    weight=tensor.data_ptr() in self._weights,
                    cache=tensor.data_ptr() in self._caches,
                )
                for tensor in tensors
            ],
        )


class LoggedExecutor:
    """An executor that notes what it does in a `CallLog`; what it computes is the same."""

    def __init__(self, executor: NativeExecutor) -> None:
        self.log = CallLog(executor.weight_addresses())
        self._executor = executor.instrumented(self.log.instrument)
        self.execution, self.machine = executor.execution, executor.machine

    def new_cache(self, config: ModelConfig, scheme: str) -> KVCache:
        """An empty cache; see `Executor.new_cache`."""
        return self._executor.new_cache(config, scheme)

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one pass; see `Executor.forward`."""
        self.log.use_caches(cache.tensors)
        return self._executor.forward(tokens, placement, rows, cache, prior)

    def prior(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask for the prior; see `Executor.prior`."""
        self.log.use_caches(cache.tensors)
        return self._executor.prior(tokens, placement, cache)

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the routers; see `Executor.routes`."""
        self.log.use_caches(cache.tensors)
        return self._executor.routes(tokens, placement, prior, cache)


class Clock:
    """An instrument that keeps the time of each of its calls, in compiled code.

    Args:
        library: the compiled model.

    Raises GemError for a library that was compiled without it.
    """

    def __init__(self, library: Path) -> None:
        self._times = aligned_zeros((0,), np.int64)
        self._library = ctypes.CDLL(str(library))
        try:
            self._library.gem_recorded.restype = ctypes.c_int64
            self.instrument = ffi().load_module(str(library)).get_function("gem_record", True)
        except AttributeError as error:
            raise without_measures(library) from error

    def start(self, events: int) -> None:
        """Begin again, with room for `events` times."""
        if len(self._times) != events:
            self._times = aligned_zeros((events,), np.int64)
        address = ctypes.c_void_p(self._times.ctypes.data)
        self._library.gem_record_into(address, ctypes.c_int64(len(self._times)))

    def stop(self) -> npt.NDArray[np.int64]:
        """Nanoseconds of each event since `start`, from any one point of time on.

        Raises GemError where there were more of them than foreseen, or fewer.
        """
        count = self._library.gem_recorded()
        self._library.gem_record_into(None, ctypes.c_int64(0))
        if count != len(self._times):
            raise GemError(
                f"the compiled model made {count // 2} calls in a pass, and {len(self._times) // 2} when the "
                "same pass was looked at before: it cannot be profiled"
            )
        return self._times.copy()


def without_measures(library: Path) -> GemError:
    """The error for a library of an earlier GEM, which has nothing to measure with."""
    return GemError(
        f"the compiled model '{library}' cannot be profiled, for an earlier GEM made it: compile it again"
    )
