"""Running a compiled decoder in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gemcore.runtime.kv_cache import KVCache
from gemcore.runtime.tvm_runtime import (
    aligned,
    as_array,
    as_tensor,
    ffi,
    load_function,
    usable_cores,
    use_threads,
)

FORWARD = "forward"
"""Name of the one function of a compiled model."""


class Executor(Protocol):
    """Runs passes of a compiled decoder, wherever that happens."""

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits `[rows, vocabulary]` float32 of one pass over `tokens` `[tokens]`; writes `cache`.

        `placement` is int32 `[tokens, 4]` as in `gemcore.models.ops`; slots must lie inside the cache,
        and `rows` `[rows]` inside the pass.
        """
        ...


class NativeExecutor:
    """A compiled decoder in a shared library for this machine.

    Args:
        library: the shared library.
        weights: arrays in the order of the library's inputs; used where they are, so they may be mapped.
        threads: how many threads compute; None for all cores.
    """

    def __init__(
        self, library: Path, weights: Sequence[npt.NDArray[Any]], threads: int | None = None
    ) -> None:
        # Decoding repeats one size; prompts come in all sizes, each of which a pool would keep.
        self._decode = load_function(library, FORWARD, pooled=True)
        self._prefill = load_function(library, FORWARD, pooled=False)
        use_threads(library, threads or usable_cores())
        # DLPack refuses read-only arrays; the library never writes its weights.
        self._arrays = [aligned(array) for array in weights]
        self._weights = [as_tensor(array) for array in self._arrays]
        self._inputs: tuple[KVCache, int, Any] | None = None

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        cache: KVCache,
        prior: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Run one pass; see `Executor.forward`."""
        call = [tokens, placement, rows] if prior is None else [tokens, placement, rows, prior]
        arguments = [as_tensor(aligned(array)) for array in call]
        function = self._decode if len(tokens) == 1 else self._prefill
        return as_array(function(*arguments, self._bound(cache)))

    def _bound(self, cache: KVCache) -> Any:
        """Caches and weights as one argument, made again only when the cache has moved."""
        if self._inputs is None or self._inputs[:2] != (cache, cache.capacity):
            bound = ffi().Array([*cache.tensors, *self._weights])
            self._inputs = (cache, cache.capacity, bound)
        return self._inputs[2]
