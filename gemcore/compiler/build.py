"""Compile a lowered decoder to one shared library with TVM."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm

from gemcore.errors import GemError

Linker = Callable[[str, list[str]], None]


def build_library(module: tvm.IRModule, target: dict[str, Any], path: Path) -> None:
    """Compile `module` for `target` (a TVM target as a dict) and link it to the shared library `path`.

    The library is written beside `path` and renamed, so that `path` is whole or not there. Raises
    GemError when no C compiler is found to link with.
    """
    executable = tvm.compile(module, target=tvm.target.Target(target))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".library-") as folder:
        library = Path(folder) / "model.so"
        try:
            executable.export_library(str(library))
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()
            raise GemError(
                f"linking the compiled model failed ({reason[-1] if reason else error}): "
                "install a C++ compiler such as g++ and try again"
            ) from error
        library.replace(path)
