"""What every library that is compiled ahead of time is made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "compiler" / "native" / "ahead"


def driver_digest() -> str:
    """SHA-256 of the C sources that every such library is made of."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".c", ".h"):
            digest.update(path.read_bytes())
    return digest.hexdigest()
