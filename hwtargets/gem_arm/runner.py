"""The program that runs a compiled model where there is no Python; see native/runner.cc."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from gem_arm.libraries import LIBRARIES, runtime_folder
from gemcore.cache import cache_folder
from gemcore.errors import GemError

COMPILER = "aarch64-linux-gnu-g++"
SOURCE = Path(__file__).parent / "native" / "runner.cc"
RUNNER = "gem-runner"
LIBRARY_FOLDER = "lib"
"""Where the runner looks for TVM's libraries, beside itself."""


def build_runner(path: Path, cpu: str) -> None:
    """Write the runner for an aarch64 processor to `path`, compiled the first time and then kept.

    Raises:
        GemError: TVM's libraries cannot be fetched, or the compiler fails.
    """
    libraries = runtime_folder()
    made_of = [SOURCE.read_text(encoding="utf-8"), cpu, *(library.sha256 for library in LIBRARIES)]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
    kept = cache_folder("runtimes", "runners") / f"{RUNNER}-{digest[:32]}"
    if not kept.is_file():
        _compile(kept, cpu, libraries)
    shutil.copy2(kept, path)


def _compile(path: Path, cpu: str, folder: Path) -> None:
    """Compile the runner to `path`, which is whole or not there."""
    libraries = [str(folder / library.name) for library in LIBRARIES]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".runner-") as temporary:
        program = Path(temporary) / RUNNER
        # TVM's headers come with its Python package, and are the same for all machines.
        words = ["-O2", "-std=c++17", "-s", f"-mcpu={cpu}", "-isystem", str(_headers())]
        # The libraries register functions when they are loaded, though the runner names none of them.
        link = ["-Wl,--no-as-needed", *libraries, f"-Wl,-rpath,$ORIGIN/{LIBRARY_FOLDER}", "-ldl"]
        command = [COMPILER, *words, str(SOURCE), "-o", str(program), *link]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise GemError(f"cannot start {COMPILER}: {error.strerror}") from error
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if "error" in line]
            raise GemError(
                f"compiling the runner failed: {said[0] if said else done.stderr.strip()}"
            )
        program.replace(path)


def _headers() -> Path:
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise GemError("TVM is not installed: run 'pip install apache-tvm==0.27.0.post1'")
    return Path(spec.origin).parent / "include"
