"""Where benchmark records come from: GEM's own, those of plugins, and files that the user names."""

from __future__ import annotations

import tomllib
import warnings
from importlib import resources
from typing import TYPE_CHECKING, Any

import attrs

from gem_suite.catalog import by_name, make_benchmark, read_benchmarks
from gem_suite.errors import BenchmarkFileError
from gemcore.errors import GemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.resources.abc import Traversable
    from pathlib import Path

    from gem_suite.records import Benchmark
    from gemcore.plugins import PluginHost, Selection
    from gemcore.records import BenchmarkRecord


@attrs.frozen
class TomlBenchmarks:
    """The `[[benchmark]]` tables of TOML files, for the hook `gem_benchmarks`.

    Attributes:
        files: in the order of their benchmarks.
    """

    files: tuple[Traversable, ...]

    def tables(self) -> Iterator[Mapping[str, Any]]:
        """Each table, as it stands in the files.

        Raises:
            BenchmarkFileError: a file cannot be read or is no TOML.
        """
        for file in self.files:
            try:
                tables = tomllib.loads(file.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise BenchmarkFileError(f"{file.name} is no TOML file: {error}") from None
            yield from tables.get("benchmark", ())


def builtin() -> TomlBenchmarks:
    """GEM's own benchmarks, by domain."""
    folder = resources.files("gem_suite") / "benchmarks"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    return TomlBenchmarks(tuple(sorted(files, key=lambda file: file.name)))


def all_benchmarks(host: PluginHost, files: Sequence[Path] = ()) -> dict[str, Benchmark]:
    """Every record, by name; a plugin whose records are not right is left out with a warning.

    Args:
        host: the plugins.
        files: further TOML files.

    Raises:
        BenchmarkFileError: a file is not right, or two records have one name.
    """
    found: list[Benchmark] = []
    for selection in host.selections("benchmarks"):
        try:
            found += _records(host, selection)
        except GemError as error:
            warnings.warn(str(error), stacklevel=2)
    for path in files:
        found += read_benchmarks(path)
    return by_name(found)


def _records(host: PluginHost, selection: Selection[BenchmarkRecord]) -> list[Benchmark]:
    source = host.create(selection)
    made = []
    for place, table in enumerate(source.tables(), start=1):
        name = table.get("name", place) if isinstance(table, dict) else place
        try:
            made.append(make_benchmark(table))
        except (GemError, TypeError, ValueError) as error:
            raise BenchmarkFileError(
                f"benchmarks '{selection.name}' of {selection.origin} are left out: "
                f"benchmark '{name}': {error}"
            ) from None
    return made
