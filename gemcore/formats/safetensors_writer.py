"""Writing safetensors files whose tensors can be used where they are mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

_TYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8", "int32": "I32"}


def write_safetensors(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], alignment: int = ALIGNMENT
) -> None:
    """Write `tensors` to `path`, in their order: what is read together lies together.

    The format allows no holes, so tensors whose size is no multiple of `alignment` bytes come last: all
    others start at a multiple of it in the file.
    """
    order = sorted(tensors, key=lambda name: tensors[name].nbytes % alignment != 0)
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).data)
