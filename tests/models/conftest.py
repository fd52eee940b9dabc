"""The default model, read once, and torch on one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gemcore.formats.gguf import load_gguf
from gemcore.models.checkpoint import Checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch's threads wait for one another busily: on a loaded machine they take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def default_checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """SmolLM2-135M: GEM_TEST_MODEL, or the file that the whole suite uses."""
    if "GEM_TEST_MODEL" in os.environ:
        return load_gguf(Path(os.environ["GEM_TEST_MODEL"]))
    try:
        return load_gguf(Path(request.getfixturevalue("default_model_path")))
    except pytest.FixtureLookupError:
        pytest.skip("the default model is not here: set GEM_TEST_MODEL to its .gguf file")
