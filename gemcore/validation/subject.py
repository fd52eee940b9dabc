"""The plugin that is looked at: installed, or built from a folder into one of its own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from gemcore.discovery import PLUGIN_GROUP, Entry, find_entries, normalize
from gemcore.errors import GemError, UsageError, unknown_name

PROJECT_FILES = ("pyproject.toml", "setup.py")
BUILD_SECONDS = 300

_FIRST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "venv")


@attrs.frozen(kw_only=True)
class Subject:
    """A distribution with a plugin.

    Attributes:
        distribution: what metadata say of it.
        entries: its entry points in the group `gem.plugins`.
        folder: where it was installed to be looked at; None where it is installed beside GEM.
    """

    distribution: importlib.metadata.Distribution = attrs.field(repr=False)
    entries: tuple[Entry, ...]
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Of the distribution."""
        return self.distribution.metadata["Name"] or "unknown"

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.distribution.metadata['Version'] or ''}".strip()


@contextmanager
def find_subject(plugin: str) -> Iterator[Subject]:
    """Find the plugin that the user means; a folder is built, and what was built goes again.

    Raises:
        UsageError: there is no such folder, or no plugin of that name.
        GemError: the folder cannot be built.
    """
    path = Path(plugin).expanduser()
    if path.is_dir() or os.sep in plugin or plugin.startswith((".", "~")):
        if not any((path / name).is_file() for name in PROJECT_FILES):
            raise UsageError(
                f"{plugin} is no project: there is no {' or '.join(PROJECT_FILES)} in such a folder"
            )
        with tempfile.TemporaryDirectory(prefix="gem-validate-") as temporary:
            yield _build(path.resolve(), Path(temporary))
        return
    entries = find_entries()
    names = {e.distribution for e in entries if e.answers_to(plugin) and not e.built_in}
    if not names:
        known = {e.distribution for e in entries if not e.built_in}
        raise unknown_name("plugin", plugin, known)
    if len(names) > 1:
        raise UsageError(f"'{plugin}' may be {' or '.join(sorted(names))}: name the distribution")
    (name,) = names
    yield _subject(importlib.metadata.distribution(name), entries)


def _subject(
    distribution: importlib.metadata.Distribution,
    entries: tuple[Entry, ...],
    folder: Path | None = None,
) -> Subject:
    name = normalize(distribution.metadata["Name"] or "")
    own = (e for e in entries if e.group == PLUGIN_GROUP and normalize(e.distribution) == name)
    return Subject(distribution=distribution, entries=tuple(own), folder=folder)


def _build(project: Path, temporary: Path) -> Subject:
    """Install a project, without what it depends on, into a folder below `temporary`."""
    # Copied, for build tools leave their files beside the sources.
    source, folder = temporary / project.name, temporary / "installed"
    shutil.copytree(project, source, ignore=_LEFT_OUT)
    isolation = [] if _missing_build_tools(source) else ["--no-build-isolation"]
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"),
        *("install", "--quiet", "--no-deps", "--no-compile", *isolation),
        *("--target", str(folder), str(source)),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise GemError(f"{project} does not finish building within {BUILD_SECONDS} s") from None
    if done.returncode:
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()
        ]
        reason = said[-1].strip() if said else f"pip ended with exit code {done.returncode}"
        raise GemError(f"{project} cannot be built: {reason}")
    found = list(importlib.metadata.distributions(path=[str(folder)]))
    if len(found) != 1:
        raise GemError(f"{project} builds {len(found)} distributions, not one")
    entries = []
    for point in found[0].entry_points:
        if point.group == PLUGIN_GROUP:
            name, version = found[0].metadata["Name"], found[0].metadata["Version"]
            entries.append(
                Entry(
                    group=point.group,
                    name=point.name,
                    distribution=name,
                    version=version,
                    point=point,
                )
            )
    return _subject(found[0], tuple(entries), folder)


def _missing_build_tools(project: Path) -> list[str]:
    """Names of what the project is built with and is not installed here: pip must fetch that."""
    try:
        table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
        wanted = [_FIRST_NAME.match(text)[0] for text in table["build-system"]["requires"]]  # type: ignore[index]
    except (OSError, ValueError, KeyError, TypeError):
        wanted = ["setuptools"]
    missing = []
    for name in wanted:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing
