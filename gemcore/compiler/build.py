"""Compile a lowered decoder to one shared library with TVM."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm.support import cc

from gemcore.errors import GemError

OPTIONS = ["-O2", "-std=c++17", "-pthread"]
"""For the C++ compiler, which compiles what is in `native` and links."""


NATIVE = tuple(
    Path(__file__).parent / "native" / f"{name}.cc" for name in ("parallel", "replay", "measure")
)
"""What is linked into every library: threads, passes of one token, and what a profile measures with."""


def build_library(
    module: tvm.IRModule,
    target: dict[str, Any],
    path: Path,
    *,
    compiler: str | None = None,
    options: Sequence[str] = (),
) -> None:
    """Compile `module` for `target` (a TVM target as a dict) and link it to the shared library `path`.

    The library is written beside `path` and renamed, so that `path` is whole or not there. `compiler` is
    the C++ compiler, by default this machine's own, and `options` more words for it. Raises GemError when
    no C compiler is found to link with.
    """
    if compiler is None and cc.get_cc() is None:
        raise GemError(
            "linking the compiled model needs a C++ compiler, and none is in PATH: "
            "install one such as g++ and try again"
        )
    executable = tvm.compile(module, target=tvm.target.Target(target))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".library-") as folder:
        library = Path(folder) / "model.so"
        try:
            chosen = {"cc": compiler} if compiler else {}
            addons, words = [*map(str, NATIVE)], [*OPTIONS, *options]
            executable.export_library(str(library), addons=addons, options=words, **chosen)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()
            raise GemError(
                f"linking the compiled model failed ({reason[-1] if reason else error}): "
                f"install a C++ compiler such as {compiler or 'g++'} and try again"
            ) from error
        library.replace(path)
