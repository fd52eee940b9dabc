"""Benchmark records from plugins and files."""

from types import SimpleNamespace

import pytest

import gem_suite
from gem_suite.catalog import builtin_benchmarks
from gem_suite.errors import BenchmarkFileError
from gem_suite.sources import TomlBenchmarks, all_benchmarks, builtin
from gemcore.hookspecs import hookimpl
from gemcore.plugins import PluginHost
from gemcore.records import BenchmarkRecord

TABLE = {"name": "mine", "domain": "law", "task_type": "classification"}


class Mine:
    """A source of one benchmark."""

    def tables(self):
        yield TABLE


class Wrong:
    """A source whose benchmark is not right."""

    def tables(self):
        yield TABLE | {"task_type": "riddle"}


class Clash:
    """A source that claims a name of GEM's."""

    def tables(self):
        yield TABLE | {"name": "piqa"}


@pytest.fixture
def host():
    host = PluginHost()
    host.add(gem_suite, name="gem_suite", distribution="gemcore")
    return host


def add(host, kind):
    @hookimpl
    def gem_benchmarks():
        loader = f"{__name__}:{kind}"
        yield BenchmarkRecord(name=kind.lower(), summary="for a test", loader=loader)

    host.add(SimpleNamespace(gem_benchmarks=gem_benchmarks), name="mine", distribution="my-plugin")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This module by its own name, which the loaders hold."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Mine.__module__])


def test_own_benchmarks_come_through_the_hook(host):
    assert all_benchmarks(host) == {record.name: record for record in builtin_benchmarks()}
    assert len(list(builtin().tables())) == 47


def test_plugins_add_to_them(host):
    add(host, "Mine")
    found = all_benchmarks(host)
    assert len(found) == 48
    assert found["mine"].domain == "law"


def test_a_plugin_that_is_wrong_is_left_out_with_a_warning(host):
    add(host, "Wrong")
    with pytest.warns(UserWarning, match="'wrong' of my-plugin are left out: benchmark 'mine'"):
        assert len(all_benchmarks(host)) == 47


def test_a_name_that_is_taken_is_an_error(host):
    add(host, "Clash")
    with pytest.raises(BenchmarkFileError, match="two benchmarks are called 'piqa'"):
        all_benchmarks(host)


def test_files_add_to_them(host, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[benchmark]]\nname = "mine"\ndomain = "law"\ntask_type = "open_ended"\n')
    assert all_benchmarks(host, [path])["mine"].task_type == "open_ended"
    assert [table["name"] for table in TomlBenchmarks((path,)).tables()] == ["mine"]
    path.write_text("benchmark = ")
    with pytest.raises(BenchmarkFileError, match="mine.toml"):
        list(TomlBenchmarks((path,)).tables())
