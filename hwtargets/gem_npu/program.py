"""From objects and C files to one static program for Hexagon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gem_npu.toolchain import NATIVE, link

if TYPE_CHECKING:
    from gemcore.compiler.aot import AheadOfTime

RUNNER = "gem_runner.c"
"""The core's program around a model that was compiled ahead of time."""


def build_program(ahead: AheadOfTime, program: Path) -> None:
    """Link the model, a runner and what counts packets to `program`.

    Raises GemError when the linker is missing or fails.
    """
    from gemcore.compiler.aot import NATIVE as AHEAD

    folder = ahead.sources[0].parent
    parts = [*ahead.sources, AHEAD / RUNNER, NATIVE / "counting.c", *ahead.objects]
    link(parts, program, ["-DGEM_STATIC", "-ffp-contract=off", "-I", str(folder)])
