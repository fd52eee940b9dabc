"""A set of random experts for the tiny model."""

from __future__ import annotations

import pytest

from gemcore.testing.experts import tiny_expert, write_tiny_set


@pytest.fixture
def folder(tiny, tmp_path):
    """A set of three experts."""
    place = tmp_path / "set"
    write_tiny_set(place, tiny)
    return place


@pytest.fixture
def expert(tiny):
    """An expert that is in no set."""
    return tiny_expert("finance", tiny)
