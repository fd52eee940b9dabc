"""Fixture distributions: plugins of every sort of trouble, really built and installed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECTS = Path(__file__).parent.parent / "fixture_plugins"

BUILD_ALL = """
import os, sys
from setuptools import build_meta
target, *projects = sys.argv[1:]
sys.argv = sys.argv[:1]
for project in projects:
    os.chdir(project)
    build_meta.build_wheel(target)
"""


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory):
    """A folder for PYTHONPATH into which pip has installed every project of fixture_plugins."""
    folder = tmp_path_factory.mktemp("fixture_plugins")
    # Copied, for setuptools leaves its build folders beside the sources.
    shutil.copytree(PROJECTS, folder / "sources")
    projects = sorted(str(config.parent) for config in folder.glob("sources/*/setup.cfg"))
    wheels, installed = folder / "wheels", folder / "installed"
    wheels.mkdir()
    _quietly([sys.executable, "-c", BUILD_ALL, str(wheels), *projects])
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    pip += ["--no-compile", "--disable-pip-version-check", "--target", str(installed)]
    _quietly([*pip, *map(str, sorted(wheels.glob("*.whl")))])
    return installed


class Gem:
    """Runs `gem` in a process of its own, where all fixture plugins are installed."""

    def __init__(self, plugins_at, folder):
        self.plugins_at, self.folder = plugins_at, folder

    def __call__(self, *arguments, **settings):
        return self._run([sys.executable, "-m", "gemcore", *arguments], **settings)

    def python(self, program, **settings):
        """Run a Python program instead."""
        return self._run([sys.executable, "-c", program], **settings)

    def pipe_to_head(self, *arguments, **settings):
        """Run `gem … | head -1`."""
        command = shlex.join([sys.executable, "-m", "gemcore", *arguments])
        return self._run(["sh", "-c", f"{command} | head -n 1"], **settings)

    def _run(self, command, plugins=None, **changes):
        environment = {key: v for key, v in os.environ.items() if not key.startswith("GEM_")}
        paths = [str(self.plugins_at), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if plugins is not None:
            environment["GEM_PLUGINS"] = ",".join(plugins)
        return subprocess.run(
            command,
            env=environment | changes,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="session")
def gem(plugin_folder, tmp_path_factory):
    """`gem` among the fixture plugins; see `Gem`."""
    return Gem(plugin_folder, tmp_path_factory.mktemp("working"))


def _quietly(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
