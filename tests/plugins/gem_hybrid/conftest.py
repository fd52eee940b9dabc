"""The hybrid quantizer on the tiny model, with a text and a cache of its own."""

import random

import pytest

import gem_hybrid
import gem_uniform
from gem_hybrid.quantizer import hybrid

DEFAULTS = {option.name: option.default for option in gem_hybrid.OPTIONS}


@pytest.fixture(scope="session")
def common_cache(tmp_path_factory):
    """A cache for all tests of these files: what precision costs is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _no_other_cache(common_cache, monkeypatch):
    monkeypatch.setenv("GEM_CACHE", str(common_cache))


@pytest.fixture
def cache(_no_other_cache, tmp_path, monkeypatch):
    """A cache of a test's own."""
    monkeypatch.setenv("GEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text_file(tmp_path):
    """Some two thousand tokens of the tiny model."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh,.", k=5)) for _ in range(400)]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words))
    return path


@pytest.fixture
def make(text_file):
    """Makes the quantizer as the host does, calibrated on `text_file`."""
    given = DEFAULTS | {"calibration": str(text_file), "tokens": 1024}
    return lambda **options: hybrid(**(given | options))


@pytest.fixture
def host(host_with_tiny):
    """The quantizers, and a source of the tiny model."""
    return host_with_tiny(gem_hybrid, gem_uniform)
