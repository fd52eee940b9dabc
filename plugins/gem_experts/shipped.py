"""Where the experts are that come with GEM."""

from __future__ import annotations

from pathlib import Path

from gemcore.errors import UsageError


def smollm2_135m() -> Path:
    """The folder of the experts for SmolLM2-135M-Instruct.

    Raises:
        UsageError: this copy of GEM came without them.
    """
    folder = Path(__file__).parent / "shipped" / "smollm2-135m"
    if not folder.is_dir():
        raise UsageError(
            "this copy of GEM came without its experts: train some with gem experts train, and name their "
            "folder, with --experts FOLDER or --router scar:experts=FOLDER"
        )
    return folder
