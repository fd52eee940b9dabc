"""What compiles, links and runs programs for Hexagon: TVM's LLVM, zig with its C library, and qemu."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemcore.errors import GemError

NATIVE = Path(__file__).parent / "native"

EMULATOR = ("qemu-hexagon", "-cpu", "v67")
"""qemu's model of version 67 runs the vector instructions of later versions that GEM uses as well."""

SCALAR_TARGET: dict[str, Any] = {
    "kind": "llvm",
    "mtriple": "hexagon-unknown-linux-musl",
    "mcpu": "hexagonv68",
}
"""For kernels without HVX, whose vectors of float32 then become scalar instructions."""

HVX_TARGET: dict[str, Any] = {**SCALAR_TARGET, "mattr": ["+hvxv68", "+hvx-length128b"]}

LINK_FLAGS = (
    "-target",
    "hexagon-linux-musl",
    "-mcpu=hexagonv68",
    "-O2",
    "-std=c11",
    "-static",
    "-s",
)
"""zig makes its C library once for each set of flags, which takes a minute."""

_SETUP = "run 'make setup-targets'"


def missing_linker() -> str:
    """Why nothing can be linked for Hexagon here, in one sentence; empty where it can be."""
    if importlib.util.find_spec("ziglang") is None:
        return (
            "linking for Hexagon needs the Python package ziglang, which is not installed: "
            f"{_SETUP}, or pip install ziglang==0.17.0"
        )
    return ""


def missing_emulator() -> str:
    """Why nothing can be run for Hexagon here, in one sentence; empty where it can be."""
    if shutil.which(EMULATOR[0]) is None:
        return (
            f"running code for Hexagon needs {EMULATOR[0]}, which is not in PATH: {_SETUP}, "
            "or install the Debian package qemu-user"
        )
    return ""


def link(parts: Sequence[Path], program: Path, flags: Sequence[str] = ()) -> None:
    """Compile and link C sources and objects to a static program.

    Raises GemError when the linker is missing, or with its last words when it fails.
    """
    if missing := missing_linker():
        raise GemError(missing)
    # zig's cache knows its own files by the path it is called with: the same one every time.
    python = str(Path(sys.executable).absolute())
    command = [python, "-m", "ziglang", "cc", *LINK_FLAGS, *flags]
    command += ["-I", str(NATIVE), *map(str, parts), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise GemError(f"linking for Hexagon failed: {words[-1] if words else done.returncode}")
