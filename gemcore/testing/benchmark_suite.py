"""The checks of benchmarks: tables that can be told apart and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from gemcore.testing.conformance import PluginConformance

NEEDED = ("name", "domain", "task_type")
"""Keys that every table has, each a text."""


class BenchmarkConformance(PluginConformance):
    """Subclass this and set `plugin` to test benchmarks."""

    kind: ClassVar[str] = "benchmarks"

    def read(self, table: Mapping[str, Any]) -> object:
        """Read a table as the suite does; override it with the reader of the suite that is used.

        That of `gem eval suite` is `gem_suite.catalog.make_benchmark`. Raises GemError, ValueError or
        TypeError for a table that is not right.
        """
        return table

    def tables(self) -> list[Mapping[str, Any]]:
        """The tables of a fresh object."""
        return list(self.create().tables())

    def test_there_are_tables(self) -> None:
        """At least one benchmark, each a table of JSON values; the same each time."""
        tables = self.tables()
        self.require(tables, "it has no benchmarks")
        for table in tables:
            self.require(
                isinstance(table, Mapping), f"a benchmark is {type(table).__name__}, no table"
            )
            try:
                json.dumps(table, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"{self.title}: benchmark '{table.get('name')}' holds what no TOML file can: {error}"
                ) from error
        self.require(tables == self.tables(), "its tables differ from time to time")

    def test_each_table_says_what_it_is(self) -> None:
        """Name, domain and task type are texts; no name comes twice."""
        names = [table.get("name") for table in self.tables()]
        for name in names:
            self.require(names.count(name) == 1, f"two benchmarks are called '{name}'")
        for table in self.tables():
            for key in NEEDED:
                value = table.get(key)
                self.require(
                    isinstance(value, str) and value.strip(),
                    f"benchmark '{table.get('name')}' has no text '{key}'",
                )

    def test_each_table_can_be_read(self) -> None:
        """The reader takes every table."""
        for table in self.tables():
            try:
                self.read(table)
            except Exception as error:
                raise AssertionError(
                    f"{self.title}: benchmark '{table.get('name')}' cannot be read: {error}"
                ) from error
