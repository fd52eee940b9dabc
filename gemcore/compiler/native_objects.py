"""The native sources as object files: compiled once a compiler, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gemcore.cache import cache_folder, explained


def native_objects(compiler: str, sources: Sequence[Path], options: Sequence[str]) -> list[Path]:
    """Compile `sources`, unless that was done before by the same compiler with the same `options`.

    Each object file appears in the cache only when it is whole.

    Raises:
        RuntimeError: the compiler cannot be run or fails; with what it said.
        GemError: the cache cannot be written.
    """
    folder = cache_folder("native", _digest(compiler, sources, options))
    found = [folder / f"{source.stem}.o" for source in sources]
    for source, path in zip(sources, found, strict=True):
        if not path.exists():
            with explained(path), tempfile.TemporaryDirectory(dir=folder) as scratch:
                whole = Path(scratch) / path.name
                _compile([compiler, *options, "-fPIC", "-c", str(source), "-o", str(whole)])
                whole.replace(path)
    return found


def _compile(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        raise RuntimeError(done.stderr or f"{words[0]} ended with exit code {done.returncode}")


def _digest(compiler: str, sources: Sequence[Path], options: Sequence[str]) -> str:
    """Of all that the objects depend on; a compiler is known by its path, size and time."""
    digest = hashlib.sha256("\n".join([compiler, *options]).encode())
    found = shutil.which(compiler)
    if found is not None:
        program = Path(found).resolve()
        state = program.stat()
        digest.update(f"\n{program} {state.st_size} {state.st_mtime_ns}".encode())
    for source in sources:
        digest.update(f"\n{source.name}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:32]
