"""Importing a plugin so that it cannot hurt its host, and checking what its hooks yield."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from gemcore import hookspecs
from gemcore.errors import PluginError
from gemcore.records import (
    HOOK_API_VERSION,
    BenchmarkRecord,
    ExpertSetRecord,
    MetricRecord,
    ModelSourceRecord,
    PluginRecord,
    QuantizerRecord,
    RouterRecord,
    TargetRecord,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HOOK_RECORDS: Mapping[str, type[PluginRecord]] = MappingProxyType(
    {
        "gem_routers": RouterRecord,
        "gem_quantizers": QuantizerRecord,
        "gem_metrics": MetricRecord,
        "gem_targets": TargetRecord,
        "gem_model_sources": ModelSourceRecord,
        "gem_benchmarks": BenchmarkRecord,
        "gem_experts": ExpertSetRecord,
    }
)
"""What each hook yields."""

MOST_RECORDS = 1000
"""A hook that yields more than this is taken to be endless."""

HEAVY = frozenset({"torch", "tvm", "tvm_ffi", "transformers"})
"""Modules that a plugin must not import before it is selected."""

MOST_SECONDS = 30.0
"""A plugin that needs longer to register is given up; `GEM_PLUGIN_SECONDS` says otherwise."""

Caught = (Exception, SystemExit)
"""What a plugin may raise without hurting the host; an interrupt by the user passes."""


def new_manager(specs: ModuleType | type = hookspecs) -> pluggy.PluginManager:
    """Make a pluggy manager that knows GEM's hooks."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(specs)
    return manager


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what is printed to stderr: stdout belongs to answers and to JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class _OutOfTime(BaseException):
    """Not an Exception, so that a plugin that catches those does not catch this."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Give a plugin up that does not finish, so that all others go on working.

    It needs signals with a timer, and the main thread. Elsewhere, and where something else uses that
    timer already, there is no limit.

    Raises:
        PluginError: the time was over; it says how long it was.
    """
    seconds = _most_seconds()
    alarm = getattr(signal, "SIGALRM", None)
    if (
        alarm is None
        or threading.current_thread() is not threading.main_thread()
        or signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)
        or not seconds
    ):
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise _OutOfTime

    before = signal.signal(alarm, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OutOfTime:
        raise PluginError(
            f"it did not finish loading within {seconds:g} s (GEM_PLUGIN_SECONDS says how long it may take)"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(alarm, before)


def _most_seconds() -> float:
    try:
        seconds = float(os.environ.get("GEM_PLUGIN_SECONDS", ""))
    except ValueError:
        return MOST_SECONDS
    return seconds if 0 < seconds < math.inf else 0.0


def one_sentence(error: BaseException) -> str:
    """Kind and message of an exception in one line of bearable length."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the module '{error.name}', which is not installed"
    try:
        text = " ".join(str(error).split())
    except Exception:  # a __str__ that is itself broken
        text = ""
    if isinstance(error, PluginError):
        return text
    if isinstance(error, ImportError) and (error.name or "").startswith("gemcore"):
        text += f"; it may want another version of GEM than this one (hook API {HOOK_API_VERSION})"
    shown = text if len(text) <= 300 else f"{text[:299]}…"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def import_plugin(point: EntryPoint) -> tuple[object, frozenset[str]]:
    """Import the module or object of an entry point.

    Returns:
        The plugin, and those of `HEAVY` that it brought in against the rules.

    Raises:
        PluginError: with the reason in one sentence.
    """
    before = HEAVY & sys.modules.keys()
    try:
        with quiet_stdout():
            plugin = point.load()
    except Caught as error:
        raise PluginError(f"it cannot be imported: {one_sentence(error)}") from error
    return plugin, frozenset(HEAVY & sys.modules.keys()) - before


def collect_records(
    manager: pluggy.PluginManager, plugin: object, name: str
) -> tuple[PluginRecord, ...]:
    """Register `plugin` with `manager`, call its hooks, and check every record.

    Whatever is wrong, the manager is left as if the plugin had never been there.

    Raises:
        PluginError: with the reason in one sentence.
    """
    _check_api_version(plugin)
    try:
        manager.register(plugin, name)
        try:
            _check_hooks(manager, plugin)
            records = tuple(_call_hooks(manager, plugin))
            _check_duplicates(records)
        except BaseException:
            manager.unregister(plugin)
            raise
    except PluginError:
        raise
    except Caught as error:
        raise PluginError(one_sentence(error)) from error
    return records


def check_contract(thing: object, protocol: type) -> None:
    """Check that `thing` has every method of `protocol`, which raises PluginError otherwise."""
    missing = [
        name
        for name, member in vars(protocol).items()
        if inspect.isfunction(member)
        and not name.startswith("_")
        and not callable(getattr(thing, name, None))
    ]
    if missing:
        kind = type(thing).__name__
        raise PluginError(
            f"its {kind} object is no {protocol.__name__}: it lacks {', '.join(missing)}"
        )


def _check_api_version(plugin: object) -> None:
    version = getattr(plugin, "GEM_HOOK_API", HOOK_API_VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        raise PluginError(f"its GEM_HOOK_API is {version!r}, not a whole number")
    if version > HOOK_API_VERSION:
        raise PluginError(
            f"it needs hook API {version}, but this GEM has {HOOK_API_VERSION}: install a newer GEM"
        )


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Find misspelt and unmarked hooks; pluggy alone would pass over both in silence."""
    known = {name for name, caller in vars(manager.hook).items() if _has_spec(caller)}
    implemented = 0
    for name in sorted(_static_names(plugin)):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in known and callable(getattr(plugin, name, None)):
                raise PluginError(f"its function {name} lacks the mark @gemcore.hookimpl")
            continue
        implemented += 1
        hook = options.get("specname") or name
        if hook not in known:
            near = difflib.get_close_matches(hook, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"hooks are {', '.join(sorted(known))}"
            raise PluginError(f"it implements the unknown hook '{hook}': {hint}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"its {name} wraps other plugins' hooks, which GEM does not allow")
    if not implemented:
        raise PluginError(f"it implements none of the hooks {', '.join(sorted(known))}")


def _static_names(plugin: object) -> set[str]:
    """Names of the plugin's attributes, found without calling anything of a module's own making."""
    return set(vars(plugin)) if isinstance(plugin, ModuleType) else set(dir(plugin))


def _has_spec(caller: Any) -> bool:
    return isinstance(caller, pluggy.HookCaller) and caller.has_spec()


def _call_hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[PluginRecord]:
    for caller in manager.get_hookcallers(plugin) or ():
        record_type = HOOK_RECORDS.get(caller.name, PluginRecord)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            # Called one by one: in a call of all plugins one failure would take the others along.
            try:
                with quiet_stdout():
                    result = implementation.function()
                    yielded: list[object] = list(islice(_iterate(result), MOST_RECORDS + 1))
            except Caught as error:
                raise PluginError(f"its {caller.name} failed: {one_sentence(error)}") from error
            if len(yielded) > MOST_RECORDS:
                raise PluginError(f"its {caller.name} yields more than {MOST_RECORDS} records")
            for record in yielded:
                if not isinstance(record, record_type):
                    raise PluginError(
                        f"its {caller.name} yields {type(record).__name__}, not "
                        f"{record_type.__name__}"
                    )
                yield record


def _iterate(result: object) -> Iterator[object]:
    if not isinstance(result, Iterable) or isinstance(result, str | bytes):
        raise PluginError(f"it returns {type(result).__name__} instead of yielding records")
    return iter(result)


def _check_duplicates(records: tuple[PluginRecord, ...]) -> None:
    seen: set[tuple[str, str]] = set()
    for record in records:
        if (record.kind, record.name) in seen:
            raise PluginError(f"it yields two records for {record.kind} '{record.name}'")
        seen.add((record.kind, record.name))
