"""What to say of an exception that nobody foresaw, and whose fault it seems to be."""

from __future__ import annotations

from gemcore.discovery import find_entries
from gemcore.loading import one_sentence


def describe_crash(error: BaseException) -> str:
    """Say in one sentence what happened, in which plugin if in one, and how to see the traceback."""
    culprit = blamed_plugin(error)
    where = f" in {culprit}" if culprit else ""
    return f"unexpected error{where}: {one_sentence(error)} (GEM_DEBUG=1 shows the traceback)"


def blamed_plugin(error: BaseException) -> str:
    """Name the plugin whose code the error came from, or nothing where it came from GEM's own.

    From the inside out, the first frame of a plugin or of GEM decides: a plugin's mistake often
    surfaces in a library that it called.
    """
    packages = {entry.package: entry for entry in find_entries() if entry.package}
    for package in reversed(_packages(error)):
        if package == "gemcore":
            return ""
        entry = packages.get(package)
        if entry is not None:
            return f"plugin '{entry.name}' of {entry.origin}"
    return ""


def _packages(error: BaseException) -> list[str]:
    """Top-level package of each frame, outermost first."""
    packages = []
    frame = error.__traceback__
    while frame is not None:
        packages.append(str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        frame = frame.tb_next
    return packages
