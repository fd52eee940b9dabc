"""Packed weights of a run that is not finished, in the user's cache, so that a stopped one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.cache import cache_folder, cache_root, write_atomically
from gemcore.errors import GemError
from gemcore.models.layout import WeightUnit
from gemcore.packing import packed_shape
from gemcore.schemes import Scheme

FOLDER = "unfinished"


class UnfinishedWeights:
    """One file for each weight that is packed already. A cache that cannot be written only costs time.

    Args:
        content: JSON values of all that the packed weights depend on.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(dict(content), sort_keys=True)
        self._name = hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def folder(self) -> Path:
        """Where the files are; it need not exist."""
        return cache_root() / FOLDER / self._name

    def read(self, unit: WeightUnit, scheme: Scheme) -> npt.NDArray[Any] | None:
        """The packed weight; None where there is none that can be used."""
        path = self.folder / f"{unit.name}.npy"
        dtype = np.uint8 if scheme.grouped else np.float16
        try:
            found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fitting = found.dtype == dtype and found.shape == packed_shape(scheme, unit.shape)
        return found if fitting else None

    def write(self, unit: WeightUnit, packed: npt.NDArray[Any]) -> None:
        """Keep a packed weight; the file appears only when it is whole."""
        with suppress(GemError):
            folder = cache_folder(FOLDER, self._name)
            with write_atomically(folder / f"{unit.name}.npy") as file:
                np.save(file, packed, allow_pickle=False)

    def remove(self) -> None:
        """Forget it all, once the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
