"""`gem models`, with sources made here."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from gemcore import plugins
from gemcore.cli import models as command
from gemcore.errors import UsageError
from gemcore.hookspecs import hookimpl
from gemcore.models.config import ModelConfig
from gemcore.models.sources import CachedModel, KnownModel
from gemcore.plugins import PluginHost
from gemcore.records import ModelSourceRecord

CONFIG = ModelConfig(
    vocabulary_size=8,
    hidden_size=64,
    intermediate_size=96,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    context_length=32,
)
PATH = Path("/cache/models/tiny.gguf")


class Shelf:
    """Has one model here, and one to be fetched."""

    def owns(self, name):
        return name in ("tiny", "large", "local.gguf")

    def load(self, name, progress=None):
        if name == "tiny":
            for done in (0, 1_000_000, 2_000_000):
                progress(done, 2_000_000)
        return SimpleNamespace(config=CONFIG)

    def known(self):
        return [
            KnownModel(name="tiny", bytes=1, licence="MIT"),
            KnownModel(name="large", bytes=7_000_000_000, licence="Apache-2.0"),
        ]

    def cached(self):
        return [
            CachedModel(name="tiny", path=PATH, bytes=2_000_000, source="shelf"),
            CachedModel(name="owner/found", path=PATH, bytes=512, source="shelf"),
        ]


def broken():
    raise RuntimeError("gone")


@pytest.fixture
def host(monkeypatch):
    import sys

    module = SimpleNamespace(Shelf=Shelf, broken=broken)
    monkeypatch.setitem(sys.modules, "shelf_under_test", module)

    @hookimpl
    def gem_model_sources():
        yield ModelSourceRecord(
            name="shelf",
            summary="a shelf",
            loader="shelf_under_test:Shelf",
            models=(("tiny", "a tiny one"), ("large", "a large one")),
        )
        yield ModelSourceRecord(name="bad", summary="broken", loader="shelf_under_test:broken")

    host = PluginHost()
    host.add(SimpleNamespace(gem_model_sources=gem_model_sources), name="test")
    monkeypatch.setattr(plugins, "get_host", lambda: host)
    return host


def run(*arguments):
    return CliRunner().invoke(command.models, arguments, catch_exceptions=False)


def test_the_list_in_json(host):
    done = run("list", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [
        {
            "name": "large",
            "source": "shelf",
            "summary": "a large one",
            "licence": "Apache-2.0",
            "bytes": 7_000_000_000,
            "cached": False,
            "path": None,
        },
        {
            "name": "owner/found",
            "source": "shelf",
            "summary": None,
            "licence": None,
            "bytes": 512,
            "cached": True,
            "path": str(PATH),
        },
        {
            "name": "tiny",
            "source": "shelf",
            "summary": "a tiny one",
            "licence": "MIT",
            "bytes": 2_000_000,
            "cached": True,
            "path": str(PATH),
        },
    ]


def test_the_list_in_words(host):
    done = run("list")
    assert done.stdout.splitlines() == [
        "NAME         SOURCE  SIZE    LICENCE     PATH",
        "large        shelf   7.0 GB  Apache-2.0  not fetched: a large one",
        f"owner/found  shelf   512 B   -           {PATH}",
        f"tiny         shelf   2.0 MB  MIT         {PATH}",
    ]


def test_a_broken_source_is_left_out_of_the_list(host):
    done = run("list")
    assert done.exit_code == 0
    assert done.stderr.startswith("bad is left out: ")
    assert "RuntimeError: gone" in done.stderr


def test_pull_says_where_and_how_big(host):
    done = run("pull", "tiny")
    assert done.stdout == (f"tiny (llama, 2 layers, hidden size 64) is ready: {PATH}, 2.0 MB\n")
    assert done.stderr.splitlines() == [
        "fetching tiny: 0 B of 2.0 MB",
        "fetching tiny: 2.0 MB of 2.0 MB",
    ]


def test_pull_of_what_is_here_is_quiet(host):
    done = run("pull", "local.gguf")
    assert "is a local model: there is nothing to fetch" in done.stdout
    assert done.stderr == ""


def test_pull_of_an_unknown_name(host):
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        run("pull", "tinny")


@pytest.mark.parametrize("fails", [True, False])
def test_the_bar_of_a_terminal(monkeypatch, capsys, fails):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    @contextmanager
    def outcome():
        if not fails:
            yield
            return
        with pytest.raises(KeyboardInterrupt):
            yield

    with outcome(), command.progress_display("fetching x") as report:
        report(0, 3_000_000)
        report(3_000_000, 3_000_000)
        if fails:
            raise KeyboardInterrupt
    assert "fetching x" in capsys.readouterr().err


def test_help_needs_no_source(monkeypatch):
    monkeypatch.setattr(plugins, "get_host", lambda: pytest.fail("asked for the host"))
    done = run("--help")
    assert "pull" in done.output
    assert "list" in done.output
