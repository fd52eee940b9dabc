"""Models that already are on this machine: a GGUF file or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gemcore.cache import remembered_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gemcore.cache import Progress
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.models.sources import CachedModel


class LocalSource:
    """Opens what a path names; it fetches nothing and keeps nothing."""

    def owns(self, name: str) -> bool:
        """Whether `name` is a path of something that exists."""
        try:
            return Path(name).expanduser().exists()
        except (OSError, ValueError, RuntimeError):
            # Too long for a path, a NUL in it, or a home folder of nobody.
            return False

    def load(self, name: str, progress: Progress | None = None) -> Checkpoint:
        """Open the file or the folder.

        Raises:
            GemError: it is not a model, or one that GEM cannot run.
        """
        path = Path(name).expanduser()
        from gemcore.formats.gguf import load_gguf
        from gemcore.formats.huggingface import load_folder

        return load_folder(path) if path.is_dir() else load_gguf(path)

    def identity(self, name: str) -> str | None:
        """The identity of a GGUF file; None for a folder, which must be opened to know."""
        path = Path(name).expanduser()
        return remembered_digest(path) if path.is_file() else None

    def cached(self) -> Sequence[CachedModel]:
        """Nothing: local models stay where they are."""
        return ()
