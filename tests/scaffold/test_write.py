"""The folder of a new plugin: whole, readable, and never over anything else."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gemcore.errors import GemError, UsageError
from gemcore.scaffold import write
from gemcore.scaffold.names import plugin_names
from gemcore.scaffold.write import KINDS, plugin_files, record_kind, write_plugin

# What a plugin may import before anything of it is asked for.
LIGHT = ("__future__", "collections.abc", "gemcore", "gemcore.records", "gemcore.schemes")


def files(kind):
    return plugin_files(kind, plugin_names(f"my-{kind}", kind), "A. Author")


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete(kind):
    found = files(kind)
    package = f"gem_my_{kind}"
    assert set(found) == {
        *("setup.cfg", "pyproject.toml", "README.md", "LICENSE", ".gitignore"),
        ".github/workflows/test.yml",
        *(f"{package}/{name}" for name in ("__init__.py", "py.typed", f"{kind}.py")),
        f"tests/test_{package}.py",
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(found["setup.cfg"])
    assert parser["metadata"]["name"] == f"gem-my-{kind}"
    assert parser["options"]["packages"] == package
    assert parser["options.entry_points"]["gem.plugins"].split() == [package, "=", package]
    assert "gemcore>=" in parser["options"]["install_requires"]
    assert "A. Author" in found["LICENSE"]
    assert f"gem plugins validate gem-my-{kind}" in found["README.md"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_to_fill_in(kind):
    for name, content in files(kind).items():
        assert not re.search(r"\$[a-z]", content), name
        assert content == "" or content.endswith("\n"), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_implementation_is_short_and_importing_the_package_is_light(kind):
    found = files(kind)
    code = ast.parse(found[f"gem_my_{kind}/{kind}.py"])
    assert ast.get_docstring(code)
    lines = [line for line in ast.unparse(code).splitlines() if line.strip()]
    assert len(lines) <= 90
    for node in ast.walk(ast.parse(found[f"gem_my_{kind}/__init__.py"])):
        if isinstance(node, ast.ImportFrom):
            assert node.module in LIGHT


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_pinned_by_hash(kind):
    used = re.findall(r"uses: (\S+)", files(kind)[".github/workflows/test.yml"])
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert "${{ matrix.python }}" in files(kind)[".github/workflows/test.yml"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_in_style(kind, tmp_path):
    ruff = shutil.which("ruff") or shutil.which("ruff", path=Path(sys.executable).parent)
    if ruff is None:
        pytest.skip("ruff is not installed")
    folder = write_plugin(kind, plugin_names("thing", kind), "me", tmp_path / "thing")
    for words in (["check", "--select", "E,F,W,I,UP,B,SIM,RUF"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *words, "--no-cache", "."],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten(tmp_path):
    names = plugin_names("thing", "metric")
    write_plugin("metric", names, "me", tmp_path / "thing")
    before = (tmp_path / "thing" / "setup.cfg").read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in ("thing", "empty", "link"):
        with pytest.raises(
            UsageError, match=f"{taken} is there already, and nothing is overwritten"
        ):
            write_plugin("router", names, "you", tmp_path / taken)
    assert (tmp_path / "thing" / "setup.cfg").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "thing"]


def test_half_a_plugin_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "plugin_files", lambda *given: {"a.py": "", "a.py/b.py": ""})
    with pytest.raises(GemError, match="cannot be written"):
        write_plugin("router", plugin_names("thing", "router"), "me", tmp_path / "thing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("author", ["", "  ", "a\nb", "100 %"])
def test_an_author_is_one_line(author):
    with pytest.raises(UsageError, match="one line of text"):
        plugin_files("router", plugin_names("thing", "router"), author)


def test_an_unknown_kind_is_told_with_those_that_there_are():
    assert record_kind("benchmark") == "benchmarks"
    with pytest.raises(UsageError, match="did you mean 'router'"):
        record_kind("routr")
