"""What runs in a process of its own: the plugin's code, watched.

`python -m gemcore.validation.probe MODE DISTRIBUTION FILE` appends one JSON object a line to FILE; what
else the process writes is the plugin's doing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gemcore.discovery import PLUGIN_GROUP, find_entries, normalize
from gemcore.errors import GemError, PluginError, UsageError
from gemcore.loading import Caught, collect_records, import_plugin, new_manager, one_sentence
from gemcore.validation.changes import changed_since, take_snapshot

if TYPE_CHECKING:
    from gemcore.discovery import Entry
    from gemcore.plugins import PluginHost, Selection
    from gemcore.records import PluginRecord

SLOW_SECONDS = 1.0
"""A plugin that takes longer to register slows every command."""

LIGHT = frozenset({"torch", "tvm", "tvm_ffi", "transformers"})

SUITES = {
    "router": "RouterConformance",
    "quantizer": "QuantizerConformance",
    "metric": "MetricConformance",
    "target": "TargetConformance",
    "benchmarks": "BenchmarkConformance",
}

Told = Callable[..., None]


def main(arguments: list[str]) -> int:
    """Run one of the modes; an error of the plugin's is a finding, not a failure of this program."""
    mode, distribution, path = arguments
    entries = [
        entry
        for entry in find_entries()
        if entry.group == PLUGIN_GROUP and normalize(entry.distribution) == normalize(distribution)
    ]
    with Path(path).open("a", encoding="utf-8") as file:
        tell = _teller(file)
        if mode == "register":
            for entry in entries:
                _register(entry, tell)
        elif mode == "select":
            _select(distribution, tell)
        else:
            _conform(distribution, tell, quick=mode == "quick")
        tell(end=True)
    return 0


def _teller(file: IO[str]) -> Told:
    def tell(check: str = "", status: str = "", detail: str = "", **more: Any) -> None:
        found = {"check": check, "status": status, "detail": detail} if status else {"begun": check}
        file.write(json.dumps({**found, **more}) + "\n")
        file.flush()

    return tell


def _register(entry: Entry, tell: Told) -> None:
    """Import the plugin and call its hooks, as every command does."""
    check = f"registers '{entry.name}'"
    tell(check)
    before, modules = take_snapshot(), set(sys.modules)
    start, begun = time.perf_counter(), time.process_time()
    try:
        if entry.point is None:
            raise PluginError(entry.problem)
        plugin, _ = import_plugin(entry.point)
        records = collect_records(new_manager(), plugin, entry.name)
    except PluginError as error:
        tell(check, "failed", str(error))
        return
    # On a machine that is busy otherwise, waiting says nothing of the plugin.
    computed = time.process_time() - begun
    seconds = computed if _is_busy() else time.perf_counter() - start
    heavy = sorted(LIGHT & (set(sys.modules) - modules))
    names = ", ".join(f"{record.kind} '{record.name}'" for record in records)
    if heavy:
        detail = (
            f"it imports {', '.join(heavy)} when it registers: import them in the loader's module"
        )
        tell(check, "failed", detail)
    elif seconds > SLOW_SECONDS:
        tell(check, "failed", f"it takes {seconds:.1f} s, and every command would wait for it")
    elif not records:
        tell(check, "failed", "it offers nothing")
    else:
        count = len(set(sys.modules) - modules)
        tell(check, "ok", f"{names}; {seconds * 1000:.0f} ms, {count} modules")
    _tell_changes(before, f"leaves the rest alone when '{entry.name}' registers", tell)
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if threads:
        detail = f"it leaves a thread running ({', '.join(threads)})"
        tell("starts no thread", "failed", detail)
    for record in records:
        _tell_schema(record, tell)


def _is_busy() -> bool:
    """Whether more programs want to compute than there are processors."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def _tell_schema(record: PluginRecord, tell: Told) -> None:
    """What `gem plugins show` will print of the record; the record has checked the rest itself."""
    check = f"options of {record.kind} '{record.name}'"
    silent = [option.name for option in record.options if not option.help.strip()]
    url = record.reference_url
    if url is not None and not url.startswith(("https://", "http://")):
        tell(check, "failed", f"its reference_url is '{url}', which is no web address")
    elif silent:
        tell(check, "warning", f"no help is given for {', '.join(silent)}")
    else:
        tell(check, "ok", ", ".join(option.name for option in record.options) or "none")


def _select(distribution: str, tell: Told) -> None:
    """Follow every loader with torch loaded beforehand, and look whether anything was changed."""
    import torch
    import torch.export
    import torch.nn.functional

    import gemcore.api
    import gemcore.models.ops
    import gemcore.testing.router_suite
    import gemcore.validation  # noqa: F401

    assert torch
    before = take_snapshot()
    host, selections = _selections(distribution)
    for selection in selections:
        check = f"{selection.record.kind} '{selection.record.name}' can be made"
        tell(check)
        try:
            thing = host.create(selection)
        except UsageError as error:
            tell(check, "warning", f"not without options: {error}")
        except GemError as error:
            tell(check, "failed", str(error))
        else:
            tell(check, "ok", f"{selection.record.loader} gives {type(thing).__name__}")
    _tell_changes(before, "leaves torch, GEM and Python as they are", tell)


def _tell_changes(before: dict[str, object], check: str, tell: Told) -> None:
    changed = changed_since(before)
    if changed:
        shown = ", ".join(changed[:5]) + (
            f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        )
        tell(check, "failed", f"it changes {shown}, for every other plugin as well")
    else:
        tell(check, "ok")


def _conform(distribution: str, tell: Told, *, quick: bool) -> None:
    """Run the checks of the conformance suites, with the default options of every record."""
    from gemcore import testing

    _, selections = _selections(distribution)
    for selection in selections:
        record = selection.record
        suite = SUITES.get(record.kind)
        if suite is None:
            tell(f"{record.kind} '{record.name}'", "skipped", "there are no checks for this kind")
            continue
        base = getattr(testing, suite)
        members = {"plugin": f"{distribution}/{record.name}", "runs_here": False}
        for name, check in _checks(type("Validated", (base,), members)):
            title = f"{record.kind} '{record.name}': {name}"
            tell(title)
            if quick and getattr(check, "gem_compiles", False):
                tell(title, "skipped", "it compiles a model")
                continue
            tell(title, *_outcome(check))


def _checks(suite: type) -> Iterator[tuple[str, Callable[[], None]]]:
    for name in dir(suite):
        if name.startswith("test_"):
            yield name.removeprefix("test_").replace("_", " "), getattr(suite(), name)


def _outcome(check: Callable[[], None]) -> tuple[str, str]:
    import unittest

    try:
        check()
    except unittest.SkipTest as reason:
        return "skipped", str(reason)
    except AssertionError as error:
        return "failed", " ".join(str(error).split())
    except UsageError as error:
        return "skipped", f"it cannot be checked without options: {error}"
    except GemError as error:
        return "failed", str(error)
    except Caught as error:
        return "failed", f"it raises {one_sentence(error)}"
    return "ok", ""


def _selections(distribution: str) -> tuple[PluginHost, list[Selection[Any]]]:
    from gemcore.plugins import get_host

    host = get_host()
    wanted = normalize(distribution)
    return host, [
        selection
        for kind in sorted({record.kind for plugin in host.plugins for record in plugin.records})
        for selection in host.selections(kind)
        if normalize(selection.distribution) == wanted
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
