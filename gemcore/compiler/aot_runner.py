"""The program that runs a library compiled ahead of time where there is no Python; see gem_runner.c."""

from __future__ import annotations

from pathlib import Path

from gemcore.compiler.aot import NATIVE, AheadOfTime
from gemcore.compiler.aot_link import Toolchain, run_tool

RUNNER = "gem-runner"

SOURCE = NATIVE / "gem_runner.c"


def build_runner(
    ahead: AheadOfTime, toolchain: Toolchain, folder: Path, *, static: bool = False
) -> Path:
    """Compile the runner with the toolchain's compiler, which here has a C library, to `folder`.

    With `static`, objects of the model are to be linked in by the compiler's own options; otherwise the
    runner loads the library that its plan names.

    Raises GemError when the compiler is missing or fails.
    """
    made = folder / RUNNER
    options = ["-std=gnu11", "-O2", "-s", f"-I{ahead.headers[0].parent}"]
    options += ["-DGEM_STATIC"] if static else []
    command = [*toolchain.compiler, *options, str(SOURCE), "-o", str(made), "-ldl"]
    run_tool(command, toolchain, "compiling the runner")
    return made
