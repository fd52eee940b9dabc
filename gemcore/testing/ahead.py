"""Running a library that was compiled ahead of time for this machine, through its C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import GemError

ALIGNMENT = 128  # bytes; GEM_ALIGNMENT of gem.h


class Facts(ctypes.Structure):
    """`gem_facts` of gem.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "interface", "vocabulary", "layers", "context", "experts", "routing", "prior",
            "weights", "caches", "block",
        )
    ]  # fmt: skip


class AheadLibrary:
    """A model with a cache and a workspace, as an app would open it.

    Args:
        library: the shared library.
        weights: the bytes of a safetensors file, or an array for each weight.
        positions: cache positions, a multiple of 16.
        tokens, rows: the most of a pass.
    """

    def __init__(
        self,
        library: Path,
        weights: npt.NDArray[np.uint8] | Sequence[npt.NDArray[Any]],
        *,
        positions: int,
        tokens: int,
        rows: int = 1,
    ) -> None:
        self.code = ctypes.CDLL(str(library))
        for name in ("gem_model_bytes", "gem_cache_bytes", "gem_workspace_bytes"):
            getattr(self.code, name).restype = ctypes.c_size_t
        self.code.gem_error.restype = ctypes.c_char_p
        self.code.gem_model_facts.restype = ctypes.POINTER(Facts)
        self.facts = self.code.gem_model_facts().contents
        self._held: list[Any] = [aligned_bytes(self.code.gem_model_bytes()), weights]
        self.model = ctypes.c_void_p()
        memory, size = _at(self._held[0]), ctypes.c_size_t(self._held[0].nbytes)
        if isinstance(weights, np.ndarray):
            given = (_at(weights), ctypes.c_size_t(weights.nbytes))
            self._check(self.code.gem_open(memory, size, *given, ctypes.byref(self.model)))
        else:
            pointers = (ctypes.c_void_p * len(weights))(*(w.ctypes.data for w in weights))
            opened = self.code.gem_open_weights(memory, size, pointers, ctypes.byref(self.model))
            self._check(opened)
        self.cache = aligned_bytes(self.code.gem_cache_bytes(ctypes.c_int64(positions)))
        self._check(self.code.gem_use_cache(self.model, _at(self.cache), ctypes.c_int64(positions)))
        self.use_workspace(self.workspace_bytes(tokens, rows))

    def workspace_bytes(self, tokens: int, rows: int) -> int:
        """What passes of so many tokens and rows need."""
        sizes = (ctypes.c_int64(tokens), ctypes.c_int64(rows))
        return int(self.code.gem_workspace_bytes(self.model, *sizes))

    def use_workspace(self, size: int) -> None:
        """Work in `size` bytes."""
        self._held[2:] = [aligned_bytes(size)]
        given = (_at(self._held[2]), ctypes.c_size_t(size))
        self._check(self.code.gem_use_workspace(self.model, *given))

    def feed(
        self, tokens: npt.NDArray[np.int32], prior: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits `[vocabulary]` after the last token."""
        logits = np.full(self.facts.vocabulary, np.nan, np.float32)
        given = None if prior is None else _at(prior)
        count = ctypes.c_int64(len(tokens))
        fed = self.code.gem_feed(self.model, _at(tokens), count, given, _at(logits))
        self._check(fed)
        return logits

    def forward(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int32],
        priors: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits `[rows, vocabulary]`; arguments as in `gemcore.runtime.executor.Executor`."""
        logits = np.full((len(rows), self.facts.vocabulary), np.nan, np.float32)
        self._check(
            self.code.gem_forward(
                self.model, _at(tokens), _at(placement), ctypes.c_int64(len(tokens)), _at(rows),
                ctypes.c_int64(len(rows)), None if priors is None else _at(priors), _at(logits),
            )
        )  # fmt: skip
        return logits

    def prior(
        self, tokens: npt.NDArray[np.int32], placement: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """The prior over the experts `[experts]`."""
        prior = np.full(self.facts.experts, np.nan, np.float32)
        count = ctypes.c_int64(len(tokens))
        self._check(self.code.gem_prior(self.model, _at(tokens), _at(placement), count, _at(prior)))
        return prior

    def routes(
        self,
        tokens: npt.NDArray[np.int32],
        placement: npt.NDArray[np.int32],
        priors: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """What each router says: `[routing layers, tokens, experts]`."""
        shape = (self.facts.routing, len(tokens), self.facts.experts)
        routes = np.full(shape, np.nan, np.float32)
        self._check(
            self.code.gem_routes(
                self.model, _at(tokens), _at(placement), ctypes.c_int64(len(tokens)), _at(priors),
                _at(routes),
            )
        )  # fmt: skip
        return routes

    def _check(self, status: int) -> None:
        if status:
            raise GemError(self.code.gem_error().decode())


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory that begins where the library wants it."""
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
