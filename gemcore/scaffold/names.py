"""What a new plugin is called, everywhere that its name appears, and whether that can be."""

from __future__ import annotations

import keyword
import re
import sys
from typing import TYPE_CHECKING

import attrs

from gemcore.discovery import normalize
from gemcore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

PREFIX = "gem-"
LONGEST = 40

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")


@attrs.frozen(kw_only=True)
class PluginNames:
    """The names of a plugin with one record.

    Attributes:
        record: what users type: `token-hash`.
        distribution: what is installed: `gem-token-hash`.
        package: what is imported: `gem_token_hash`.
        class_name: the class of the object behind the record: `TokenHashRouter`.
        title: the record's name in words: `Token hash`.
    """

    record: str
    distribution: str
    package: str
    class_name: str
    title: str


def plugin_names(name: str, kind: str, taken: Collection[str] = ()) -> PluginNames:
    """Check `name` and derive the other names from it.

    Args:
        name: as the user typed it, with or without `gem-` in front.
        kind: `router` and so on, the last word of the class's name.
        taken: names of records of this kind that are installed.

    Raises:
        UsageError: the name cannot be, or is taken.
    """
    record = name.removeprefix(PREFIX)
    if not _NAME.match(record) or len(record) > LONGEST:
        near = re.sub(r"[^a-z0-9]+", "-", record.lower()).strip("-")[:LONGEST]
        hint = f": '{near}' would do" if _NAME.match(near) and near != record else ""
        raise UsageError(
            f"'{name}' cannot name a plugin, for it must be lower-case letters and digits, with single "
            f"hyphens between, begin with a letter and have at most {LONGEST} characters{hint}"
        )
    if record in taken:
        raise UsageError(
            f"there is a {kind} '{record}' already: choose another name, or users would have to write "
            f"'{PREFIX}{record}/{record}'"
        )
    package = normalize(PREFIX + record).replace("-", "_")
    if package in sys.stdlib_module_names or keyword.iskeyword(package):
        raise UsageError(
            f"'{name}' cannot name a plugin, for '{package}' means something in Python"
        )
    words = record.split("-")
    camel = "".join(word[:1].upper() + word[1:] for word in words)
    suffix = kind.capitalize()
    return PluginNames(
        record=record,
        distribution=PREFIX + record,
        package=package,
        class_name=camel if camel.endswith(suffix) else camel + suffix,
        title=" ".join(words).capitalize(),
    )
