"""llama.cpp's own quantizer, through llama-cpp-python: runs in the environment of the peers.

    python benchmarks/llama_quantize.py MODEL-f32.gguf OUTPUT.gguf Q4_K_M [IMPORTANCE.npz]

The .npz file holds for each tensor, by its GGUF name, the mean square of each of its inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def importance(path: Path, library: Any) -> tuple[Any, list[Any]]:
    """llama.cpp's importance matrix from a file, and what must stay in memory while it is used."""
    with np.load(path, allow_pickle=False) as file:
        squares = {name: np.ascontiguousarray(file[name], np.float32) for name in file.files}
    kind = library.llama_model_imatrix_data
    pointer = dict(kind._fields_)["data"]
    entries = (kind * (len(squares) + 1))()  # an empty one ends the list
    for entry, (name, values) in zip(entries, squares.items(), strict=False):
        entry.name, entry.size = name.encode(), len(values)
        entry.data = values.ctypes.data_as(pointer)
    return entries, list(squares.values())


def main(arguments: Sequence[str]) -> int:
    """Quantize; returns the exit code."""
    llama_cpp = import_module("llama_cpp")
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    source, output, name = arguments[:3]
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = 1
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    kept: list[Any] = []
    if len(arguments) == 4:
        parameters.imatrix, kept = importance(Path(arguments[3]), llama_cpp)
    failed = llama_cpp.llama_model_quantize(source.encode(), output.encode(), parameters)
    del kept
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
