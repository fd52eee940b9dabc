"""Writing a new plugin: the templates of its kind, filled in, in a folder that was not there before."""

from __future__ import annotations

import datetime
import shutil
import string
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import attrs

from gemcore import __version__
from gemcore.errors import GemError, UsageError, unknown_name
from gemcore.scaffold.names import PluginNames


@attrs.frozen(kw_only=True)
class Kind:
    """What the templates of one kind of plugin need beside its names.

    Attributes:
        summary: of the record; it says what the template does until its author changes it.
        usage: a command that uses the new plugin, with `$name` in it.
        record_kind: the kind as `PluginHost` knows it.
    """

    summary: str
    usage: str
    record_kind: str = ""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "router": Kind(
            summary="sends each token to the expert that it is sure of, or to none",
            usage='gem run --router $name "What is the capital of France?"',
        ),
        "quantizer": Kind(
            summary="eight bits at both ends of the model, four between",
            usage='gem run --quantizer $name "What is the capital of France?"',
        ),
        "metric": Kind(
            summary="the share of right answers",
            usage="gem eval metric $name correct='[true, false, true]'",
        ),
        "target": Kind(
            summary="any processor of this machine's kind",
            usage='gem run --target $name "What is the capital of France?"',
        ),
        "benchmark": Kind(
            summary="sums of small numbers, four choices each",
            usage="python -m $package.benchmark data\n"
            "    gem eval suite --data data --tasks $name -o results.json",
            record_kind="benchmarks",
        ),
    }
)
"""The kinds of plugin that can be made."""

_PLACES = MappingProxyType({"gitignore": ".gitignore", "test.yml": ".github/workflows/test.yml"})


def record_kind(kind: str) -> str:
    """What `PluginHost` calls a kind; UsageError with the list where there is none."""
    if kind not in KINDS:
        raise unknown_name("kind of plugin", kind, KINDS)
    return KINDS[kind].record_kind or kind


def plugin_files(kind: str, names: PluginNames, author: str) -> dict[str, str]:
    """The content of every file of a new plugin, by its path within the plugin's folder.

    Raises:
        UsageError: there is no such kind, or the author's name has more than one line.
    """
    record_kind(kind)
    author = author.strip()
    if not author or len(author.splitlines()) > 1 or "%" in author:
        raise UsageError(f"the author {author!r} must be one line of text without '%'")
    values = {
        "name": names.record,
        "distribution": names.distribution,
        "package": names.package,
        "class_name": names.class_name,
        "title": names.title,
        "kind": kind,
        "summary": KINDS[kind].summary,
        "author": author,
        "year": str(datetime.datetime.now(datetime.UTC).year),
        "gem_version": __version__,
        "package_data": "",
    }
    values["usage"] = string.Template(KINDS[kind].usage).substitute(values)
    files = {f"{names.package}/py.typed": ""}
    templates = resources.files("gemcore.scaffold") / "templates"
    for folder in ("common", kind):
        for entry in sorted((templates / folder).iterdir(), key=lambda entry: entry.name):
            name = entry.name.removesuffix(".tmpl")
            if folder == "common":
                place = _PLACES.get(name, name)
            else:
                place = f"{names.package}/{name}"
                if name == "test.py":
                    place = f"tests/test_{names.package}.py"
            files[place] = string.Template(entry.read_text("utf-8")).substitute(values)
    return files


def write_plugin(kind: str, names: PluginNames, author: str, folder: Path) -> Path:
    """Write a new plugin to `folder`, which appears only when it is whole.

    Raises:
        UsageError: the folder is there already: nothing is ever overwritten.
        GemError: it cannot be written.
    """
    files = plugin_files(kind, names, author)
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            f"{folder} is there already, and nothing is overwritten: choose another name"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise GemError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        temporary.chmod(0o755)
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise GemError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
