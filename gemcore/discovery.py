"""Which plugins are installed and which may be loaded: from metadata alone, nothing imported."""

from __future__ import annotations

import importlib.metadata
import os
import re
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PLUGIN_GROUP = "gem.plugins"
COMMAND_GROUP = "gem.commands"
BUILT_IN = "gemcore"
"""The distribution whose plugins are GEM's own."""

_FIELD = re.compile(r"^(Name|Version):[ \t]*(\S+)", re.MULTILINE)


def normalize(name: str) -> str:
    """Write a name as PyPI compares them: lower case, '-' for each run of '-', '_' and '.'."""
    return re.sub(r"[-_.]+", "-", name).lower()


@attrs.frozen(kw_only=True)
class Entry:
    """One entry point of an installed distribution.

    Attributes:
        group: `gem.plugins` or `gem.commands`.
        name: name of the entry point.
        distribution, version: what was installed.
        point: loads the object; None where the distribution's entry points cannot be read.
        problem: why they cannot be read.
    """

    group: str
    name: str
    distribution: str
    version: str
    point: importlib.metadata.EntryPoint | None = attrs.field(default=None, repr=False)
    problem: str = ""

    @property
    def origin(self) -> str:
        """The distribution and its version, as messages name it."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def built_in(self) -> bool:
        """Whether GEM itself brings it."""
        return normalize(self.distribution) == BUILT_IN

    @property
    def package(self) -> str:
        """The top-level package that the entry point leads to; empty where that is unknown."""
        return self.point.module.partition(".")[0] if self.point else ""

    def answers_to(self, name: str) -> bool:
        """Whether a user may mean this plugin by `name`: entry point, distribution, short name."""
        wanted = normalize(name)
        own = {normalize(self.name), normalize(self.distribution)}
        return wanted in own or f"gem-{wanted}" in own


@attrs.frozen(kw_only=True)
class HostSettings:
    """Which plugins may be loaded.

    Attributes:
        allowed: normalized names of entry points or distributions; no others are loaded, GEM's own
            included (name `gemcore` to keep those). None allows all.
        built_in_only: load GEM's own plugins only.
    """

    allowed: frozenset[str] | None = None
    built_in_only: bool = False

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, no_plugins: bool = False
    ) -> HostSettings:
        """Read `GEM_PLUGINS`: names with commas between; empty is as good as unset."""
        text = (os.environ if environment is None else environment).get("GEM_PLUGINS", "")
        names = frozenset(normalize(name.strip()) for name in text.split(",") if name.strip())
        return cls(allowed=names or None, built_in_only=no_plugins)

    def refusal(self, entry: Entry) -> str | None:
        """Why `entry` is not to be loaded; None where it may be."""
        if self.built_in_only and not entry.built_in:
            return "--no-plugins allows only GEM's own plugins"
        own = {normalize(entry.name), normalize(entry.distribution)}
        if self.allowed is not None and not own & self.allowed:
            return f"GEM_PLUGINS allows only {', '.join(sorted(self.allowed))}"
        return None

    def missing(self, entries: Iterable[Entry]) -> list[str]:
        """Names that `GEM_PLUGINS` allows and that nothing installed has."""
        found = {normalize(name) for e in entries for name in (e.name, e.distribution)}
        return sorted((self.allowed or frozenset()) - found)


def find_entries() -> tuple[Entry, ...]:
    """Find the entry points of both groups, of every distribution on `sys.path`, in one pass.

    Reads one small file for most distributions. `importlib.metadata.entry_points` would parse them
    all, and would fail altogether on one malformed file.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
        except (OSError, UnicodeDecodeError):
            continue
        if not text or "gem." not in text:
            continue
        name, version = _identity(distribution)
        # The first on the path is the one whose modules Python would import.
        if normalize(name) not in seen:
            seen.add(normalize(name))
            entries.extend(_entries_of(distribution, name, version))
    return tuple(sorted(entries, key=lambda entry: (entry.group, entry.name, entry.distribution)))


def _entries_of(
    distribution: importlib.metadata.Distribution, name: str, version: str
) -> list[Entry]:
    try:
        points = [p for p in distribution.entry_points if p.group in (PLUGIN_GROUP, COMMAND_GROUP)]
    except Exception:  # whatever the parser makes of a malformed file
        problem = f"the entry_points.txt of {name} {version} is malformed: install it again"
        return [
            Entry(
                group=PLUGIN_GROUP, name=name, distribution=name, version=version, problem=problem
            )
        ]
    return [
        Entry(group=point.group, name=point.name, distribution=name, version=version, point=point)
        for point in points
    ]


def _identity(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version without the slow parser of `Distribution.metadata`."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, UnicodeDecodeError):
        text = ""
    fields = dict(_FIELD.findall(text.partition("\n\n")[0]))
    return fields.get("Name", "unknown"), fields.get("Version", "")
