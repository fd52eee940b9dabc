"""Projects of plugins with one thing wrong in each."""

import textwrap

import pytest

SETUP = """
[metadata]
name = gem-{name}
version = 1.0
description = a plugin for tests
long_description = it is for tests
license = MIT

[options]
py_modules = gem_{name}, {name}_code
python_requires = >=3.11
install_requires = gemcore>=0.1

[options.entry_points]
gem.plugins =
    gem_{name} = gem_{name}
"""

BUILD = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""

HOOKS = """
from gemcore import hookimpl
from gemcore.records import MetricRecord, Option, QuantizerRecord, RouterRecord

@hookimpl
def gem_routers():
    yield RouterRecord(
        name="{name}",
        summary="a router for tests",
        loader="{name}_code:Router",
        options=(Option(name="experts", type=str, help="a folder"),),
    )
"""

ROUTER = """
import torch
from gemcore.experts.library import open_set
from gemcore.plugins import get_host

class Module(torch.nn.Module):
    def forward(self, hidden, prior):
        return torch.zeros_like(prior)

class Router:
    module = Module
    def __init__(self, experts):
        self._experts = open_set(experts, get_host())
    def prior(self, prompt):
        return None
    def experts(self):
        return self._experts
    def layer_module(self, layer):
        return self.module() if layer == 0 else None
    def content(self):
        return self._experts.digest
    def fit(self, examples):
        pass
"""


@pytest.fixture
def project(tmp_path):
    """Makes a project: what its module does before its hooks, and its code after a sound router."""

    def make(name, before="", code="", setup=""):
        folder = tmp_path / f"gem-{name}"
        folder.mkdir()
        text = SETUP.format(name=name)
        (folder / "setup.cfg").write_text(text if not setup else setup(text))
        (folder / "pyproject.toml").write_text(BUILD)
        hooks = textwrap.dedent(before) + HOOKS.format(name=name)
        (folder / f"gem_{name}.py").write_text(hooks)
        (folder / f"{name}_code.py").write_text(ROUTER + textwrap.dedent(code))
        return folder

    return make
