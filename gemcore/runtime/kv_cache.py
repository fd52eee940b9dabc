"""The KV cache of one text, grown on demand."""

from __future__ import annotations

from typing import Any

import numpy as np

from gemcore.errors import UsageError
from gemcore.models.cache_layout import KEY_BLOCK, cache_shapes
from gemcore.models.config import ModelConfig
from gemcore.runtime.tvm_runtime import aligned_zeros, as_tensor

FIRST_CAPACITY = 256


class KVCache:
    """Keys and values of every layer, float16, for `capacity` positions.

    Layout as in `gemcore.models.ops`. `tensors` are TVM tensors on the same memory, keys and values of
    the first layer, then of the second, and so on.
    """

    def __init__(self, config: ModelConfig, capacity: int = FIRST_CAPACITY) -> None:
        self._config = config
        self.capacity = 0
        self._arrays: list[Any] = []
        self.tensors: list[Any] = []
        self.reserve(min(capacity, config.context_length))

    @property
    def bytes(self) -> int:
        """Memory that the cache may take, in bytes."""
        return sum(array.nbytes for array in self._arrays)

    def reserve(self, positions: int) -> None:
        """Make room for `positions`; what was written stays. Doubles, up to the model's context."""
        if positions <= self.capacity:
            return
        context = self._config.context_length
        if positions > context:
            raise UsageError(
                f"{positions} tokens do not fit the model's context of {context}: shorten the text"
            )
        wanted = max(positions, min(2 * self.capacity, context))
        capacity = -(-wanted // KEY_BLOCK) * KEY_BLOCK
        shapes = cache_shapes(self._config, capacity)
        old, self._arrays = self._arrays, []
        # The old tensors keep the old arrays alive: drop them before the new ones are made.
        self.tensors.clear()
        for i in range(2 * self._config.layers):
            array = aligned_zeros(shapes[i % 2], np.float16)
            if old:
                array[:, : old[i].shape[1]] = old[i]
                old[i] = None
            self._arrays.append(array)
        self.tensors.extend(as_tensor(array) for array in self._arrays)
        self.capacity = capacity

    def copy(self, positions: int) -> KVCache:
        """Another cache with the same first `positions`."""
        other = KVCache(self._config, max(positions, 1))
        blocks = -(-positions // KEY_BLOCK)
        for mine, theirs in zip(self._arrays, other._arrays, strict=True):
            used = blocks if mine.ndim == 4 else blocks * KEY_BLOCK
            theirs[:, :used] = mine[:, :used]
        return other
