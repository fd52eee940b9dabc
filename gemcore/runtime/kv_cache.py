"""The KV cache of one text, grown on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import UsageError
from gemcore.models.cache_layout import DEFAULT_CACHE, KEY_BLOCK, cache_dtype, cache_shapes
from gemcore.models.config import ModelConfig
from gemcore.runtime.tvm_runtime import aligned_zeros, as_tensor

Zeros = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""Gives memory of this shape and type, full of zeros."""

FIRST_CAPACITY = 8192
"""Positions of a new cache, if the model allows them; what is not written takes no memory."""


class KVCache:
    """Keys and values of every layer, stored as `scheme` says, for `capacity` positions.

    Layout as in `gemcore.models.cache_layout`. `tensors` are TVM tensors on the same memory, keys and
    values of the first layer, then of the second, and so on. `zeros` gives the memory: that of this process,
    unless the model runs elsewhere.
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int = FIRST_CAPACITY,
        scheme: str = DEFAULT_CACHE,
        zeros: Zeros = aligned_zeros,
    ) -> None:
        self._config, self._scheme, self._zeros = config, scheme, zeros
        self.capacity = 0
        self._arrays: list[Any] = []
        self.tensors: list[Any] = []
        self.reserve(min(capacity, config.context_length))

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The memory of `tensors`, in their order."""
        return tuple(self._arrays)

    @property
    def bytes(self) -> int:
        """Memory that the cache may take, in bytes."""
        return sum(array.nbytes for array in self._arrays)

    def reserve(self, positions: int) -> None:
        """Make room for `positions`; what was written stays. Doubles, up to the model's context."""
        context = self._config.context_length
        if positions > context:
            raise UsageError(
                f"{positions} tokens do not fit the model's context of {context}: shorten the text"
            )
        if positions <= self.capacity:
            return
        wanted = max(positions, min(2 * self.capacity, context))
        capacity = -(-wanted // KEY_BLOCK) * KEY_BLOCK
        shapes = cache_shapes(self._config, capacity, self._scheme)
        dtype = np.dtype(cache_dtype(self._scheme))
        old, self._arrays = self._arrays, []
        # The old tensors keep the old arrays alive: drop them before the new ones are made.
        self.tensors.clear()
        for i in range(2 * self._config.layers):
            array = self._zeros(shapes[i % 2], dtype)
            if old:
                array[:, : old[i].shape[1]] = old[i]
                old[i] = None
            self._arrays.append(array)
        self.tensors.extend(as_tensor(array) for array in self._arrays)
        self.capacity = capacity

    def copy(self, positions: int) -> KVCache:
        """Another cache with the same first `positions`."""
        capacity = max(positions, FIRST_CAPACITY)
        other = KVCache(self._config, capacity, self._scheme, self._zeros)
        blocks = -(-positions // KEY_BLOCK)
        for mine, theirs in zip(self._arrays, other._arrays, strict=True):
            used = blocks * KEY_BLOCK * mine.shape[1] // self.capacity
            theirs[:, :used] = mine[:, :used]
        return other
