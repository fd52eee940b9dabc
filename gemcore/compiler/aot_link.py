"""From the objects and C files of a model that was compiled ahead of time to a library."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from gemcore.compiler.aot import AheadOfTime
from gemcore.errors import GemError

C_OPTIONS = (
    "-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fPIC",
    "-fvisibility=hidden", "-ffp-contract=off",
)  # fmt: skip
"""No C library is used, and nothing is rounded once where the text rounds twice."""

EXPORTED = "{ global: gem_*; local: *; };\n"
"""Version script: what others see of a shared library."""


@attrs.frozen(kw_only=True)
class Toolchain:
    """Programs and options that make a library for one machine.

    Attributes:
        compiler: the C compiler and its options for that machine.
        linker: the linker and its options for a shared library; empty where none is made.
        hide: the linker's option for the script that says what others see; `{}` is its path.
        install: what a user is told to do where one of them is missing.
    """

    compiler: tuple[str, ...]
    linker: tuple[str, ...] = ()
    hide: str = "--version-script={}"
    install: str = "run 'make setup-targets'"


def compile_sources(
    ahead: AheadOfTime, toolchain: Toolchain, folder: Path, *, math: bool = True
) -> list[Path]:
    """Compile the driver and the tables, and with `math` what stands for a C library: objects.

    Raises GemError when the compiler is missing or fails.
    """
    objects = []
    for source in (*ahead.sources, *([ahead.math] if math else [])):
        made = folder / f"{source.stem}.o"
        include = f"-I{source.parent}"
        command = [*toolchain.compiler, *C_OPTIONS, include, "-c", str(source), "-o", str(made)]
        run_tool(command, toolchain, "compiling the driver")
        objects.append(made)
    return objects


def link_shared(ahead: AheadOfTime, toolchain: Toolchain, folder: Path, output: Path) -> None:
    """Link a shared library at `output` that needs no other one and shows `gem_*` alone.

    Raises GemError when a tool is missing or fails.
    """
    objects = compile_sources(ahead, toolchain, folder)
    script = folder / "exported.map"
    script.write_text(EXPORTED, encoding="utf-8")
    made = folder / f".{output.name}"
    options = ["-shared", toolchain.hide.format(script), "-o", str(made)]
    files = [str(path) for path in (*objects, *ahead.objects)]
    run_tool([*toolchain.linker, *options, *files], toolchain, "linking the library")
    made.replace(output)


def archive(ahead: AheadOfTime, toolchain: Toolchain, folder: Path, output: Path) -> None:
    """Put everything into a static library at `output`, for a system that has a C library.

    The toolchain's linker is the archiver. Raises GemError when a tool is missing or fails.
    """
    objects = [*compile_sources(ahead, toolchain, folder, math=False), *ahead.objects]
    made = folder / f".{output.name}"
    # New, with an index, and without the time of day.
    words = [*toolchain.linker, "rcsD", str(made), *map(str, objects)]
    run_tool(words, toolchain, "archiving the library")
    made.replace(output)


def run_tool(command: Sequence[str], toolchain: Toolchain, doing: str) -> str:
    """Run a tool and give what it prints; GemError, in one sentence, when that does not work."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise GemError(
            f"{doing} needs {command[0]}, which is not in PATH: {toolchain.install}"
        ) from error
    except OSError as error:
        raise GemError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise GemError(f"{doing} failed: {command[0]} says '{reason.strip()[:200]}'")
    return done.stdout
