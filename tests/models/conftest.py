"""The default model, read once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemcore.formats.gguf import load_gguf
from gemcore.models.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def default_checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """SmolLM2-135M: GEM_TEST_MODEL, or the file that the whole suite uses."""
    if "GEM_TEST_MODEL" in os.environ:
        return load_gguf(Path(os.environ["GEM_TEST_MODEL"]))
    try:
        return load_gguf(Path(request.getfixturevalue("default_model_path")))
    except pytest.FixtureLookupError:
        pytest.skip("the default model is not here: set GEM_TEST_MODEL to its .gguf file")
