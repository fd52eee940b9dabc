"""Arm's tools: the TOSA serializer, its reference model and Vela, in this environment or in another."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from gemcore.errors import GemError

VARIABLE = "GEM_ETHOS_PYTHON"
"""Environment variable that names the Python interpreter whose environment has the tools."""

FOLDER = ".venv-ethos"
"""Where `make setup-targets` puts them: beside GEM's own environment."""

PACKAGES = ("tosa_serializer", "tosa_reference_model", "ethosu.vela")
GRAPHS = Path(__file__).parent / "graphs.py"


def interpreter() -> Path | None:
    """The interpreter that has the tools; None where none is known."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if all(_is_here(name) for name in PACKAGES):
        return Path(sys.executable)
    beside = Path(sys.prefix).parent / FOLDER / "bin" / "python"
    return beside if beside.exists() else None


def _is_here(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def missing_tools() -> str:
    """Why nothing can be compiled here, in one sentence; empty where it can be."""
    found = interpreter()
    if found is not None and found.exists():
        return ""
    wanted = f", but {VARIABLE} names {found}, which is not there" if found else ""
    return (
        f"compiling for target 'ethos-u85' needs Arm's tosa-tools and ethos-u-vela{wanted}: run "
        f"'make setup-targets', or install both packages elsewhere and name that Python in {VARIABLE}"
    )


@cache
def versions(python: Path) -> str:
    """Versions of the tools, as JSON."""
    code = (
        "import json; from importlib.metadata import version as v; "
        "print(json.dumps({n: v(n) for n in ('tosa-tools', 'ethos-u-vela')}, sort_keys=True))"
    )
    return json.dumps(json.loads(run(python, ["-c", code])))


def run(python: Path, words: list[str]) -> str:
    """What the interpreter prints; GemError, in one sentence, where it fails."""
    command = [str(python), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise GemError(f"Arm's tools cannot be started: {python}: {error.strerror}") from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise GemError(f"Arm's tools failed: {said[-1].strip() if said else done.returncode}")
    return done.stdout
