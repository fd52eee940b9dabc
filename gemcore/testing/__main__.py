"""`python -m gemcore.testing FOLDER` writes a tiny model and tiny experts, to try a plugin with."""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Write `FOLDER/model` and `FOLDER/experts`, and say how to use them."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m gemcore.testing FOLDER\n")
        return 2
    from gemcore.errors import GemError

    try:
        _write(Path(arguments[0]))
    except GemError as error:
        sys.stderr.write(f"gemcore.testing: {error}\n")
        return error.exit_code
    return 0


def _write(folder: Path) -> None:
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host
    from gemcore.testing.experts import write_tiny_set
    from gemcore.testing.model_folder import write_tiny_model

    model = write_tiny_model(folder / "model")
    # Experts know their model by its weights as they are read from the folder.
    experts = write_tiny_set(folder / "experts", load_checkpoint(str(model), get_host()), scale=0.5)
    sys.stdout.write(
        f"wrote {model} (a random model: its answers mean nothing) and {experts.folder} with the experts "
        f"{', '.join(experts.names)}\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
