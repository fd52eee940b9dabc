"""The errors that a user may cause: one clear sentence each, and the exit code that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GemError(Exception):
    """Something failed for a reason that the message says in full; the command exits with 1."""

    exit_code = 1


class UsageError(GemError):
    """The user asked for something that does not exist or cannot be; the command exits with 2."""

    exit_code = 2


class FormatError(GemError):
    """A file is malformed, truncated or of another kind than it claims."""


class BundleError(GemError):
    """A bundle is damaged, or was made by versions that this one must not run."""


class PluginError(GemError):
    """A plugin that was selected could not be loaded, or broke its contract."""


def unknown_name(kind: str, name: str, available: Iterable[str]) -> UsageError:
    """Say that no `kind` is called `name`, with the nearest names and the whole list.

    >>> str(unknown_name("router", "scra", ["none", "scar"]))
    "unknown router 'scra': did you mean 'scar'? Available: none, scar"
    """
    names = sorted(available)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" did you mean '{near[0]}'?" if near else ""
    listing = ", ".join(names) if names else "none are installed"
    return UsageError(f"unknown {kind} '{name}':{hint} Available: {listing}")
