"""Random experts of the tiny model, GEM's routers, and texts that are easy to tell apart."""

import random
import sys
from types import SimpleNamespace

import pytest

import gem_routers
import gem_scar
from gem_scar.examples import Example
from gem_scar.fit_options import FitOptions
from gemcore import plugins
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import ModelSourceRecord
from gemcore.testing.experts import write_tiny_set

LETTERS = {"code": "{}();=", "law": "aeiouy", "medicine": "01234567", "none": "QWXZKJ"}


def make_text(label, seed, length=30):
    """Words of a domain's own letters."""
    generator = random.Random(f"{label} {seed}")
    return "".join(generator.choice(LETTERS[label] + " ") for _ in range(length)).strip() or "."


@pytest.fixture
def text():
    """Makes a text of a domain."""
    return make_text


@pytest.fixture
def examples_of():
    """Makes as many examples of each label, from two sources each."""
    return lambda labels, count=12: [
        Example(text=make_text(label, i), label=label, source=f"{label}-{i % 2}")
        for label in labels
        for i in range(count)
    ]


@pytest.fixture
def small():
    """A quick fit."""
    return FitOptions(
        layer=1,
        width=12,
        clusters=2,
        general_clusters=2,
        tokens=8,
        steps=60,
        batch=128,
        prior_layers=1,
    )


@pytest.fixture
def folder(tiny, tmp_path):
    """A set's folder."""
    write_tiny_set(tmp_path / "set", tiny)
    return tmp_path / "set"


@pytest.fixture
def host(tiny, monkeypatch):
    """GEM's routers, and a source of the tiny model."""

    class Shelf:
        def owns(self, name):
            return name == "tiny"

        def load(self, name, progress=None):
            return tiny

        def cached(self):
            return []

    monkeypatch.setitem(sys.modules, "shelf_of_these_tests", SimpleNamespace(Shelf=Shelf))

    @hookimpl
    def gem_model_sources():
        yield ModelSourceRecord(
            name="shelf", summary="a shelf", loader="shelf_of_these_tests:Shelf"
        )

    found = PluginHost()
    found.add(gem_scar, name="gem_scar")
    found.add(gem_routers, name="gem_routers")
    found.add(SimpleNamespace(gem_model_sources=gem_model_sources), name="shelf")
    monkeypatch.setattr(plugins, "get_host", lambda: found)
    return found
