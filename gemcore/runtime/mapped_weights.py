"""The weights of a bundle, mapped into memory where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gemcore.errors import BundleError
from gemcore.formats.safetensors_header import read_safetensors_header

_TYPES = MappingProxyType({"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32})


def map_weights(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Arrays of a safetensors file in the order of `names`; pages are read when they are used.

    The mapping is private and writable, because DLPack takes no read-only arrays: a write would change
    neither the file nor another process. Raises BundleError for a file or a weight that is not there,
    FormatError for a damaged file.
    """
    try:
        mapped = np.memmap(path, dtype=np.uint8, mode="c")
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        reason = getattr(error, "strerror", None) or "it is empty"
        raise BundleError(f"the weights {path} cannot be mapped: {reason}") from error
    tensors = {tensor.name: tensor for tensor in read_safetensors_header(mapped, path)}
    arrays = []
    for name in names:
        if name not in tensors or tensors[name].dtype not in _TYPES:
            raise BundleError(f"{path} holds no weight '{name}' that this GEM can read")
        tensor = tensors[name]
        stored = mapped[tensor.offset : tensor.offset + tensor.size]
        arrays.append(stored.view(np.ndarray).view(_TYPES[tensor.dtype]).reshape(tensor.shape))
    return arrays
