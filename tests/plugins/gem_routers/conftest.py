"""A set of random experts of the tiny model, in a folder."""

import pytest

from gemcore.testing.experts import write_tiny_set


@pytest.fixture
def folder(tiny, tmp_path):
    """A set's folder."""
    write_tiny_set(tmp_path / "set", tiny)
    return tmp_path / "set"
