"""Whether a plugin changes what belongs to others: functions and classes of torch, GEM and Python."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from types import MappingProxyType, ModuleType
from typing import Any

Snapshot = dict[str, object]
"""Objects by dotted name; the objects themselves are kept, so that none can be mistaken for another."""

WATCHED = ("builtins", "json", "os", "sys", "warnings", "numpy", "safetensors", "click", "torch")
"""Modules that are looked at where they are loaded, beside all of GEM's."""

_TORCH = ("torch.nn", "torch.nn.functional", "torch.linalg", "torch.export", "torch.autograd")
_HOOKS = ("excepthook", "displayhook", "unraisablehook", "meta_path", "path_hooks")
_SIGNALS = MappingProxyType({"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM})


def take_snapshot() -> Snapshot:
    """Every function and class of the watched modules, the members of those classes, and the hooks."""
    found: Snapshot = {}
    for name, module in sorted(sys.modules.items()):
        if isinstance(module, ModuleType) and (
            name in WATCHED or name in _TORCH or name.partition(".")[0] == "gemcore"
        ):
            _add(found, name, vars(module))
    for name in _HOOKS:
        value = getattr(sys, name)
        found[f"sys.{name}"] = tuple(value) if isinstance(value, list) else value
    for name, number in _SIGNALS.items():
        found[f"the handler of {name}"] = signal.getsignal(number)
    found["os.environ"] = dict(os.environ)
    return found


def changed_since(before: Snapshot) -> list[str]:
    """Names of what is another object now, or is gone; what was added is no harm.

    Members that were added to a watched class count, for its instances have them.
    """
    now = take_snapshot()
    changed = []
    for name, value in before.items():
        other = now.get(name)
        same = other == value if isinstance(value, dict | tuple) else other is value
        if not same:
            changed.append(name)
    classes = {name for name, value in before.items() if inspect.isclass(value)}
    changed += [
        name
        for name in now.keys() - before.keys()
        if name.rpartition(".")[0] in classes and not name.rpartition(".")[2].startswith("_")
    ]
    return sorted(changed)


def _add(found: Snapshot, name: str, members: Any) -> None:
    for member, value in list(members.items()):
        if not callable(value) or isinstance(value, ModuleType):
            continue
        found[f"{name}.{member}"] = value
        # Its own classes: those that it only uses are looked at where they are at home.
        if inspect.isclass(value) and (value.__module__ or "").partition(".")[0] in _ROOTS:
            for inner, thing in list(vars(value).items()):
                if callable(thing) or isinstance(thing, property | classmethod | staticmethod):
                    found[f"{name}.{member}.{inner}"] = thing


_ROOTS = frozenset({"torch", "gemcore"})
