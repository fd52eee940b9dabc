"""pip for this environment, and what it has installed of plugins."""

from __future__ import annotations

import subprocess
import sys

from gemcore.discovery import BUILT_IN, find_entries, normalize
from gemcore.errors import GemError, UsageError, unknown_name


def run_pip(*arguments: str) -> None:
    """Run pip with this Python; what it says goes to stderr.

    Raises:
        GemError: there is no pip, or it failed; it has said why itself.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, stdout=sys.stderr.fileno(), check=False)
    if done.returncode:
        if not _has_pip():
            raise GemError(
                f"{sys.executable} has no pip: install it (python -m ensurepip), or use the installer "
                "that this environment was made with"
            )
        raise GemError(f"pip {arguments[0]} failed with exit code {done.returncode}")


def installed_plugins() -> dict[str, str]:
    """Distributions with entry points for GEM, itself left out, and their versions."""
    import importlib

    importlib.invalidate_caches()
    return {entry.distribution: entry.version for entry in find_entries() if not entry.built_in}


def distribution_of(name: str) -> str:
    """The distribution that a user means by the name of a plugin, package or distribution.

    Raises:
        UsageError: no plugin is called so, several are, or it is GEM itself.
    """
    entries = find_entries()
    found = sorted({entry.distribution for entry in entries if entry.answers_to(name)})
    found = [other for other in found if normalize(other) != BUILT_IN] or found
    if not found:
        raise unknown_name("plugin", name, installed_plugins())
    if len(found) > 1:
        raise UsageError(f"'{name}' may be {' or '.join(found)}: name the distribution")
    if normalize(found[0]) == BUILT_IN:
        raise UsageError(
            f"'{name}' is GEM's own and comes with it: GEM_PLUGINS says which plugins are used"
        )
    return found[0]


def _has_pip() -> bool:
    from importlib.util import find_spec

    return find_spec("pip") is not None
