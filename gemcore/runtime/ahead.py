"""Running a library that was compiled ahead of time in another program, which loads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.bundle import WEIGHTS

if TYPE_CHECKING:
    from gemcore.bundle import Bundle
    from gemcore.runtime.process_executor import ProcessExecutor

SOURCES = Path(__file__).parent.parent / "compiler" / "native" / "ahead"


def driver_digest() -> str:
    """SHA-256 of the C sources that every such library is made of."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".c", ".h"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def emulated(bundle: Bundle, emulator: Sequence[str], runner: str, library: str) -> ProcessExecutor:
    """Start the bundle's `runner` on an emulator, where it loads the bundle's `library`.

    Raises GemError when the emulator cannot be started.
    """
    from gemcore.runtime.plan import bundle_plan
    from gemcore.runtime.process_executor import ProcessExecutor

    folder, manifest = bundle.folder.absolute(), bundle.manifest
    plan = bundle_plan(bundle, str(folder / library), str(folder / WEIGHTS), 1)
    return ProcessExecutor(
        [*emulator, str(folder / runner)],
        plan,
        experts=len(manifest.experts),
        vocabulary=manifest.config.vocabulary_size,
        machine=" ".join(emulator[:3]),
    )
