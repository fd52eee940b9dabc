"""`gem experts` on a set of random experts, as if a plugin had brought it."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from gemcore import plugins
from gemcore.cli.main import main
from gemcore.discovery import Entry
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import ExpertSetRecord, ModelSourceRecord, RouterRecord
from gemcore.testing.experts import write_tiny_set


class Shelf:
    """Has the base model."""

    checkpoint = None

    def owns(self, name):
        return name == "tiny"

    def load(self, name, progress=None):
        return self.checkpoint

    def cached(self):
        return []


class Router:
    """A fitted router that cannot be extended."""

    def prior(self, prompt):
        return None

    def layer_module(self, layer):
        return None

    def fit(self, examples):
        pass


@pytest.fixture
def shipped(tiny, tmp_path):
    """The set that a plugin brings."""
    folder = tmp_path / "shipped"
    write_tiny_set(folder, tiny)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Where the user's copy of it will be."""
    monkeypatch.setenv("GEM_EXPERTS", str(tmp_path / "own"))
    return tmp_path / "own" / "clinic"


@pytest.fixture
def learned():
    """What routers were given to learn from."""
    return []


@pytest.fixture
def host(tiny, shipped, own, learned, monkeypatch):
    """The plugins of these tests: a set, its base model, and three routers."""

    class Learner(Router):
        def extend(self, set_folder, expert_name, texts):
            learned.append((set_folder, expert_name, tuple(texts)))

        def forget(self, set_folder, expert_name):
            learned.append((set_folder, expert_name))

    class Failing(Router):
        def extend(self, set_folder, expert_name, texts):
            from gemcore.errors import UsageError

            raise UsageError("one example is too few")

        def forget(self, set_folder, expert_name):
            from gemcore.errors import FormatError

            raise FormatError("the file is no more")

    shelf = type("TinyShelf", (Shelf,), {"checkpoint": tiny})
    module = SimpleNamespace(
        clinic=lambda: shipped, Shelf=shelf, Router=Router, Learner=Learner, Failing=Failing
    )
    monkeypatch.setitem(sys.modules, "parts_of_these_tests", module)

    @hookimpl
    def gem_experts():
        yield ExpertSetRecord(
            name="clinic",
            summary="a set",
            base_name="tiny",
            loader="parts_of_these_tests:clinic",
        )

    @hookimpl
    def gem_model_sources():
        yield ModelSourceRecord(
            name="shelf", summary="a shelf", loader="parts_of_these_tests:Shelf"
        )

    @hookimpl
    def gem_routers():
        for name in ("Router", "Learner", "Failing"):
            yield RouterRecord(
                name=name.lower(), summary="a router", loader=f"parts_of_these_tests:{name}"
            )

    found = PluginHost()
    hooks = {f.__name__: f for f in (gem_experts, gem_model_sources, gem_routers)}
    found.add(SimpleNamespace(**hooks), name="parts")
    monkeypatch.setattr(plugins, "get_host", lambda: found)
    return found


@pytest.fixture
def gem(host, monkeypatch, capsys):
    """Run `gem experts …`: exit code, stdout and stderr."""
    point = EntryPoint("experts", "gem_experts.cli:experts", "gem.commands")
    entry = Entry(
        group="gem.commands", name="experts", distribution="gemcore", version="", point=point
    )
    monkeypatch.setattr("gemcore.discovery.find_entries", lambda: (entry,))

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["experts", *map(str, words)])
        return ended.value.code, *capsys.readouterr()

    return run
