"""pytest fixtures for the tests of plugins; pytest loads them wherever GEM is installed.

Importing this module imports none of what the fixtures need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from gemcore.bundle import Bundle
    from gemcore.experts.expert_set import ExpertSet
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.session import Session


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known that checks of the suites have which compile a model."""
    config.addinivalue_line("markers", "slow: takes more than a moment, for example to compile")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the checks that compile a model the marker `slow`, so that `-m 'not slow'` leaves them out."""
    for item in items:
        if getattr(getattr(item, "function", None), "gem_compiles", False):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def gem_checkpoint() -> Checkpoint:
    """A random model of two layers, made in a moment, that every packing scheme fits."""
    from gemcore.testing import material

    return material.checkpoint()


@pytest.fixture(scope="session")
def gem_experts() -> ExpertSet:
    """Three experts of `gem_checkpoint`, in a folder: code, law and medicine."""
    from gemcore.testing import material

    return material.experts()


@pytest.fixture(scope="session")
def gem_bundle() -> Bundle:
    """`gem_checkpoint` compiled for this machine; out of the user's cache after the first time."""
    from gemcore.plugins import get_host
    from gemcore.testing import material

    return material.tiny_bundle(get_host())


@pytest.fixture
def gem_session(gem_bundle: Bundle) -> Session:
    """A fresh session of `gem_bundle`."""
    from gemcore.api import open_session

    return open_session(gem_bundle.folder)


@pytest.fixture(scope="session")
def gem_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gem_checkpoint` as a Hugging Face folder, for `gem run --model`."""
    from gemcore.testing.model_folder import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("gem-model") / "tiny")
