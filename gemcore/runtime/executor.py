"""Running a compiled decoder in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gemcore.models.cache_layout import PLACEMENT_FIELDS
from gemcore.models.config import ModelConfig
from gemcore.reports import Execution
from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.replay import Replay
from gemcore.runtime.tvm_abi import Function, Object, Tensor, global_function
from gemcore.runtime.tvm_runtime import (
    CAPTURE,
    aligned,
    aligned_zeros,
    as_array,
    as_tensor,
    load_function,
    usable_cores,
    use_threads,
)

FORWARD = "forward"
"""Name of the function of a compiled model that every one has."""

PRIOR = "prior"
"""Name of the function that a model has whose first layers, or encoder, give the prior over experts."""

ROUTES = "routes"
"""Name of the function that a model with a router has, which says which experts work for which token."""


class Executor(Protocol):
    """Runs passes of a compiled decoder, wherever that happens."""

    @property
    def execution(self) -> Execution:
        """`native` on the hardware that the model was compiled for; `emulated` on an emulator of it."""
        ...

    @property
    def machine(self) -> str:
        """What runs it, where that is not this process: an emulator with its options, or a device."""
        ...

    def new_cache(self, config: ModelConfig, scheme: str) -> KVCache:
        """An empty cache in memory that this executor reaches."""
        ...

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits `[rows, vocabulary]` float32 of one pass over `tokens` `[tokens]`; writes `cache`.

        `placement` is int32 `[tokens, 5]` as in `gemcore.models.ops`; slots must lie inside the cache,
        and `rows` `[rows]` inside the pass. `prior` is float32 `[tokens, experts]`, for routed models
        only: each token has its request's.
        """
        ...

    def prior(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """The prior over the experts `[experts]` float32 of one text.

        Only for models that were compiled with one. From the model's first layers: writes the part of
        `cache` that belongs to those. Or from an encoder, whose own `tokens` these are: it uses neither
        `placement` nor `cache`.
        """
        ...

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """What each router says of each token: `[routing layers, tokens, experts]` float32.

        Only for models with a router. The arguments are those of `forward`. Writes the part of `cache`
        that belongs to the layers before the last router.
        """
        ...


class NativeExecutor:
    """A compiled decoder in a shared library for this machine. Not for several threads at once.

    Args:
        library: the shared library.
        weights: arrays in the order of the library's inputs; used where they are, so they may be mapped.
        threads: how many threads compute; None for all cores.
        instrument: called around every kernel; see `gemcore.runtime.instrument`.

    Attributes:
        replay_times: where passes of one token leave their times; see `gemcore.runtime.replay`.
    """

    execution: Execution = "native"
    machine = ""

    def __init__(
        self,
        library: Path,
        weights: Sequence[npt.NDArray[Any]],
        threads: int | None = None,
        *,
        instrument: Any = None,
    ) -> None:
        self.library = library
        self.replay_times: npt.NDArray[np.int64] | None = None
        self._instrument = instrument
        self._replays = instrument is None
        # Decoding repeats one size; prompts come in all sizes, each of which a pool would keep.
        noted = CAPTURE if self._replays else instrument
        self._decode = load_function(library, FORWARD, pooled=True, instrument=noted)
        self._prefill = load_function(library, FORWARD, pooled=False, instrument=instrument)
        self._prior: Function | None = None
        self._routes: Function | None = None
        self.threads = threads or usable_cores()
        use_threads(library, self.threads)
        # DLPack refuses read-only arrays; the library never writes its weights.
        self._arrays = [aligned(array) for array in weights]
        self._weights = [as_tensor(array) for array in self._arrays]
        # Decoding writes its few numbers to the same places again and again.
        shapes = ((1,), (1, PLACEMENT_FIELDS), (1,))
        self._one = [aligned_zeros(shape, np.int32) for shape in shapes]
        self._one_tensors = [as_tensor(array) for array in self._one]
        self._inputs: WeakKeyDictionary[KVCache, tuple[list[Tensor], Object]] = WeakKeyDictionary()
        self._passes: WeakKeyDictionary[KVCache, Replay] = WeakKeyDictionary()

    def new_cache(self, config: ModelConfig, scheme: str) -> KVCache:
        """An empty cache in memory of this process."""
        return KVCache(config, scheme=scheme)

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one pass; see `Executor.forward`."""
        bound = self._bound(cache)
        priors = [] if prior is None else [prior]
        if len(tokens) == len(rows) == 1:
            for missing in [tokens, placement, rows, *priors][len(self._one) :]:
                self._one.append(aligned_zeros(missing.shape, missing.dtype))
                self._one_tensors.append(as_tensor(self._one[-1]))
            for place, values in zip(self._one, (tokens, placement, rows, *priors), strict=True):
                place[...] = values
            return as_array(self._one_token(cache, bound)).copy()
        # TVM does not take every empty array: the first row then stands in, and is left out again.
        wanted = rows if len(rows) else np.zeros(1, np.int32)
        arguments = [as_tensor(aligned(array)) for array in (tokens, placement, wanted, *priors)]
        function = self._decode if len(tokens) == 1 else self._prefill
        return as_array(function(*arguments, bound))[: len(rows)]

    def prior(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the model's first layers, or its encoder, for the prior; see `Executor.prior`."""
        if self._prior is None:
            self._prior = self._load_later(PRIOR)
        arguments = [as_tensor(aligned(array)) for array in (tokens, placement)]
        return as_array(self._prior(*arguments, self._bound(cache)))

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        prior: npt.NDArray[np.float32],
        cache: KVCache,
    ) -> npt.NDArray[np.float32]:
        """Ask the routers; see `Executor.routes`."""
        if self._routes is None:
            self._routes = self._load_later(ROUTES)
        arguments = [as_tensor(aligned(array)) for array in (tokens, placement, prior)]
        return as_array(self._routes(*arguments, self._bound(cache)))

    def _load_later(self, name: str) -> Function:
        function = load_function(self.library, name, pooled=False, instrument=self._instrument)
        # Loading the library, even again, has it use TVM's own threads.
        use_threads(self.library, self.threads)
        return function

    def _one_token(self, cache: KVCache, bound: Object) -> Tensor:
        def run() -> Tensor:
            result: Tensor = self._decode(*self._one_tensors, bound)
            return result

        replay = self._passes.get(cache)
        if replay is None and self._replays:
            replay = self._passes[cache] = Replay(self.library, run)
            return replay.result
        return run() if replay is None or replay.calls is None else replay(self.replay_times)

    def _bound(self, cache: KVCache) -> Object:
        """Cache and weights as one argument, made again only when the cache has moved."""
        tensors, bound = self._inputs.get(cache, (None, None))
        if bound is None or tensors != cache.tensors:
            self._passes.pop(cache, None)
            bound = global_function("ffi.Array")(*cache.tensors, *self._weights)
            self._inputs[cache] = (list(cache.tensors), bound)
        return bound

    def instrumented(self, instrument: Any) -> NativeExecutor:
        """The same library, weights and threads, with `instrument` around every kernel, or with none."""
        return NativeExecutor(self.library, self._arrays, self.threads, instrument=instrument)

    def weight_addresses(self) -> frozenset[int]:
        """Where the weights lie: what a kernel reads there comes from memory."""
        return frozenset(weight.data_ptr() for weight in self._weights)
