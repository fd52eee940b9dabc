"""The plugin host: loads what is installed, survives what is broken, finds what the user names."""

from __future__ import annotations

import functools
import time
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import attrs

from gemcore import hookspecs, protocols
from gemcore.discovery import (
    COMMAND_GROUP,
    PLUGIN_GROUP,
    Entry,
    HostSettings,
    find_entries,
    normalize,
)
from gemcore.errors import PluginError, UsageError, unknown_name
from gemcore.loading import (
    Caught,
    check_contract,
    collect_records,
    import_plugin,
    new_manager,
    one_sentence,
    quiet_stdout,
    time_limit,
)
from gemcore.options import PluginChoice, format_words, parse_table, parse_words, resolve_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import pluggy

    from gemcore.records import (
        BenchmarkRecord,
        ExpertSetRecord,
        MetricRecord,
        ModelSourceRecord,
        PluginRecord,
        QuantizerRecord,
        RouterRecord,
        TargetRecord,
    )

    Wanted = str | Mapping[str, Any] | PluginChoice

Status = Literal["active", "disabled", "failed"]

Record_co = TypeVar("Record_co", bound="PluginRecord", covariant=True)
"""The kind of record that a selection holds."""

PROTOCOLS: Mapping[str, type] = MappingProxyType(
    {
        "router": protocols.Router,
        "quantizer": protocols.Quantizer,
        "metric": protocols.Metric,
        "target": protocols.Target,
        "model source": protocols.ModelSource,
        "benchmarks": protocols.BenchmarkSource,
    }
)
"""What the loader of each kind of record must return; that of an expert set returns a Path."""


@attrs.frozen(kw_only=True)
class LoadedPlugin:
    """A plugin after the attempt to load it.

    Attributes:
        entry: where it comes from.
        status: `active`, `disabled` (settings forbid it; it was not imported) or `failed`.
        reason: one sentence; empty where there is nothing to say.
        load_seconds: how long import and hooks took; None where it was not imported.
        records: what it offers.
    """

    entry: Entry
    status: Status
    reason: str = ""
    load_seconds: float | None = None
    records: tuple[PluginRecord, ...] = ()

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"plugin '{self.entry.name}' of {self.entry.origin}"


@attrs.frozen(kw_only=True)
class PluginStatus:
    """One row of `gem plugins list`: a record, or a plugin that offers none.

    Attributes:
        name: of the record, or of the plugin.
        kind: of the record; None for a whole plugin.
        plugin: name of its entry point.
        reason: why it is not active, or what else is to be known, such as a conflict.
        load_seconds: of the whole plugin.
    """

    name: str
    kind: str | None
    plugin: str
    distribution: str
    version: str
    status: Status
    reason: str
    load_seconds: float | None


@attrs.frozen(kw_only=True)
class Selection(Generic[Record_co]):
    """A record that the user chose, with its options checked.

    For type checkers a selection has the type of its record: `select("router", …)` gives
    `Selection[RouterRecord]`, of which `create` makes a `Router`.

    Attributes:
        name: the name that selects it: the record's own, or `distribution/name` in a conflict.
        options: a value for each option of the record.
    """

    name: str
    record: Record_co
    options: Mapping[str, Any]
    distribution: str
    version: str

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def words(self) -> str:
        """The selection with all its options, as the user could type it."""
        given = {name: value for name, value in self.options.items() if value is not None}
        return format_words(PluginChoice(self.name, given))


@attrs.frozen
class _Claim:
    record: PluginRecord
    entry: Entry

    @property
    def qualified(self) -> str:
        return f"{self.entry.distribution}/{self.record.name}"


@attrs.define
class PluginHost:
    """The plugins of this process.

    A broken plugin stops nothing: it is kept with its reason, which becomes the error of whoever
    selects it. `PluginHost()` is empty; `PluginHost.discover` loads what is installed.

    Attributes:
        plugins: every plugin that was found, loaded or not.
        commands: entry points of the group `gem.commands`, not imported.
    """

    plugins: list[LoadedPlugin] = attrs.field(factory=list)
    commands: tuple[Entry, ...] = ()
    _missing: tuple[str, ...] = ()
    _manager: pluggy.PluginManager = attrs.field(factory=new_manager, repr=False)

    @classmethod
    def discover(
        cls, settings: HostSettings, *, specs: ModuleType | type = hookspecs
    ) -> PluginHost:
        """Load every installed plugin that `settings` allow; the others are not even imported."""
        entries = find_entries()
        host = cls(
            commands=tuple(entry for entry in entries if entry.group == COMMAND_GROUP),
            missing=tuple(settings.missing(entries)),
            manager=new_manager(specs),
        )
        for entry in entries:
            if entry.group == PLUGIN_GROUP:
                refusal = settings.refusal(entry)
                if refusal is None:
                    host._load(entry)
                else:
                    host.plugins.append(
                        LoadedPlugin(entry=entry, status="disabled", reason=refusal)
                    )
        return host

    def add(
        self, plugin: object, *, name: str, distribution: str = "local", version: str = ""
    ) -> None:
        """Add a plugin that is not installed: a module, or any object with hooks for attributes."""
        entry = Entry(group=PLUGIN_GROUP, name=name, distribution=distribution, version=version)
        self._keep(entry, lambda: (plugin, frozenset()))

    @overload
    def records(self, kind: Literal["router"]) -> tuple[RouterRecord, ...]: ...
    @overload
    def records(self, kind: Literal["quantizer"]) -> tuple[QuantizerRecord, ...]: ...
    @overload
    def records(self, kind: Literal["metric"]) -> tuple[MetricRecord, ...]: ...
    @overload
    def records(self, kind: Literal["target"]) -> tuple[TargetRecord, ...]: ...
    @overload
    def records(self, kind: Literal["model source"]) -> tuple[ModelSourceRecord, ...]: ...
    @overload
    def records(self, kind: Literal["benchmarks"]) -> tuple[BenchmarkRecord, ...]: ...
    @overload
    def records(self, kind: Literal["expert set"]) -> tuple[ExpertSetRecord, ...]: ...
    @overload
    def records(self, kind: str) -> tuple[PluginRecord, ...]: ...
    def records(self, kind: str) -> tuple[PluginRecord, ...]:
        """All records of a kind, by name; two of one name where distributions are in conflict."""
        return tuple(claim.record for claim in self._claims(kind))

    def routers(self) -> tuple[RouterRecord, ...]:
        """All routers."""
        return self.records("router")

    def quantizers(self) -> tuple[QuantizerRecord, ...]:
        """All quantizers."""
        return self.records("quantizer")

    def metrics(self) -> tuple[MetricRecord, ...]:
        """All metrics."""
        return self.records("metric")

    def targets(self) -> tuple[TargetRecord, ...]:
        """All targets."""
        return self.records("target")

    def model_sources(self) -> tuple[ModelSourceRecord, ...]:
        """All model sources."""
        return self.records("model source")

    def benchmarks(self) -> tuple[BenchmarkRecord, ...]:
        """All records of benchmarks, each of one or more."""
        return self.records("benchmarks")

    def expert_sets(self) -> tuple[ExpertSetRecord, ...]:
        """All sets of experts that plugins bring."""
        return self.records("expert set")

    @overload
    def select(self, kind: Literal["router"], wanted: Wanted) -> Selection[RouterRecord]: ...
    @overload
    def select(self, kind: Literal["quantizer"], wanted: Wanted) -> Selection[QuantizerRecord]: ...
    @overload
    def select(self, kind: Literal["metric"], wanted: Wanted) -> Selection[MetricRecord]: ...
    @overload
    def select(self, kind: Literal["target"], wanted: Wanted) -> Selection[TargetRecord]: ...
    @overload
    def select(
        self, kind: Literal["model source"], wanted: Wanted
    ) -> Selection[ModelSourceRecord]: ...
    @overload
    def select(self, kind: Literal["benchmarks"], wanted: Wanted) -> Selection[BenchmarkRecord]: ...
    @overload
    def select(self, kind: Literal["expert set"], wanted: Wanted) -> Selection[ExpertSetRecord]: ...
    @overload
    def select(self, kind: str, wanted: Wanted) -> Selection[PluginRecord]: ...
    def select(self, kind: str, wanted: Wanted) -> Selection[PluginRecord]:
        """Find the record that the user asks for and check its options.

        Args:
            kind: `router`, `quantizer`, `metric`, `target`, `model source`, `benchmarks` or
                `expert set`.
            wanted: words (`scar:top_p=0.9`, `distribution/scar`), a table with a `name`, or a
                choice.

        Raises:
            UsageError: for an unknown name or option, a value that is not allowed, or a name that
                two distributions claim.
            PluginError: when the name is that of a plugin that could not be loaded.
        """
        if isinstance(wanted, str):
            wanted = parse_words(wanted)
        choice = wanted if isinstance(wanted, PluginChoice) else parse_table(wanted, kind)
        claim = self._find(kind, choice.name)
        title = f"{kind} '{choice.name}'"
        options = resolve_options(claim.record.options, choice.options, title)
        if claim.record.deprecated is not None:
            warnings.warn(claim.record.deprecated.warning(title), stacklevel=2)
        return self._selection(claim, options)

    @overload
    def selections(self, kind: Literal["router"]) -> tuple[Selection[RouterRecord], ...]: ...
    @overload
    def selections(self, kind: Literal["quantizer"]) -> tuple[Selection[QuantizerRecord], ...]: ...
    @overload
    def selections(self, kind: Literal["metric"]) -> tuple[Selection[MetricRecord], ...]: ...
    @overload
    def selections(self, kind: Literal["target"]) -> tuple[Selection[TargetRecord], ...]: ...
    @overload
    def selections(
        self, kind: Literal["model source"]
    ) -> tuple[Selection[ModelSourceRecord], ...]: ...
    @overload
    def selections(self, kind: Literal["benchmarks"]) -> tuple[Selection[BenchmarkRecord], ...]: ...
    @overload
    def selections(self, kind: Literal["expert set"]) -> tuple[Selection[ExpertSetRecord], ...]: ...
    @overload
    def selections(self, kind: str) -> tuple[Selection[PluginRecord], ...]: ...
    def selections(self, kind: str) -> tuple[Selection[PluginRecord], ...]:
        """Every record of a kind with its default options, those in conflict included."""
        return tuple(
            self._selection(claim, {option.name: option.default for option in claim.record.options})
            for claim in self._claims(kind)
        )

    @overload
    def create(self, selection: Selection[RouterRecord]) -> protocols.Router: ...
    @overload
    def create(self, selection: Selection[QuantizerRecord]) -> protocols.Quantizer: ...
    @overload
    def create(self, selection: Selection[MetricRecord]) -> protocols.Metric: ...
    @overload
    def create(self, selection: Selection[TargetRecord]) -> protocols.Target: ...
    @overload
    def create(self, selection: Selection[ModelSourceRecord]) -> protocols.ModelSource: ...
    @overload
    def create(self, selection: Selection[BenchmarkRecord]) -> protocols.BenchmarkSource: ...
    @overload
    def create(self, selection: Selection[ExpertSetRecord]) -> Path: ...
    @overload
    def create(self, selection: Selection[PluginRecord]) -> Any: ...
    def create(self, selection: Selection[PluginRecord]) -> Any:
        """Import the selected plugin's code and make its object: a `gemcore.protocols` type.

        Raises:
            PluginError: when that fails or breaks the contract; it names plugin, distribution and
                reason.
            UsageError: when the plugin itself raises one, for options that do not go together.
        """
        record = selection.record
        title = f"{record.kind} '{record.name}' of {selection.origin}"
        module, _, attribute = record.loader.partition(":")
        try:
            with quiet_stdout():
                loader: Any = import_module(module)
                for part in attribute.split("."):
                    loader = getattr(loader, part)
                thing = loader(**selection.options)
            if record.kind in PROTOCOLS:
                check_contract(thing, PROTOCOLS[record.kind])
        except UsageError as error:
            raise UsageError(f"{title}: {error}") from error
        except Caught as error:
            raise PluginError(f"{title} cannot be used: {one_sentence(error)}") from error
        return thing

    def conflict(self, kind: str, record: PluginRecord, distribution: str) -> str:
        """Who else claims the record's name, in one sentence; empty where nobody does."""
        claims = [claim for claim in self._claims(kind) if claim.record.name == record.name]
        own = next((c for c in claims if c.record is record), None)
        others = [claim for claim in claims if claim is not own]
        if own is None or not others:
            return ""
        rivals = " and ".join(other.entry.origin for other in others)
        if self._owner(claims) is own:
            return f"conflict: also claimed by {rivals}; '{record.name}' selects this one"
        return f"conflict: also claimed by {rivals}; write '{distribution}/{record.name}'"

    def status(self) -> list[PluginStatus]:
        """One row for each record, and one for each plugin that has none to offer."""
        rows = [row for plugin in self.plugins for row in self._rows(plugin)]
        rows += [
            PluginStatus(
                name=name,
                kind=None,
                plugin=name,
                distribution="",
                version="",
                status="failed",
                reason="GEM_PLUGINS allows it, but nothing of this name is installed",
                load_seconds=None,
            )
            for name in self._missing
        ]
        return rows

    def _rows(self, plugin: LoadedPlugin) -> Iterator[PluginStatus]:
        entry = plugin.entry
        whole = PluginStatus(
            name=entry.name,
            kind=None,
            plugin=entry.name,
            distribution=entry.distribution,
            version=entry.version,
            status=plugin.status,
            reason=plugin.reason,
            load_seconds=plugin.load_seconds,
        )
        if not plugin.records:
            yield whole
        for record in plugin.records:
            conflict = self.conflict(record.kind, record, entry.distribution)
            reason = "; ".join(part for part in (plugin.reason, conflict) if part)
            yield attrs.evolve(whole, name=record.name, kind=record.kind, reason=reason)

    def _load(self, entry: Entry) -> None:
        def load() -> tuple[object, frozenset[str]]:
            if entry.point is None:
                raise PluginError(entry.problem)
            return import_plugin(entry.point)

        self._keep(entry, load)

    def _keep(self, entry: Entry, load: Callable[[], tuple[object, frozenset[str]]]) -> None:
        start = time.perf_counter()
        status: Status = "active"
        records: tuple[PluginRecord, ...] = ()
        try:
            with time_limit():
                plugin, heavy = load()
                records = collect_records(
                    self._manager, plugin, f"{entry.distribution}/{entry.name}"
                )
            reason = "" if records else "offers nothing on this machine"
            if heavy:
                reason = f"imports {', '.join(sorted(heavy))} when loaded: it slows every command"
        except PluginError as error:
            status, reason = "failed", str(error)
        self.plugins.append(
            LoadedPlugin(
                entry=entry,
                status=status,
                reason=reason,
                load_seconds=time.perf_counter() - start,
                records=records,
            )
        )

    def _claims(self, kind: str) -> list[_Claim]:
        claims = [
            _Claim(record, plugin.entry)
            for plugin in self.plugins
            for record in plugin.records
            if record.kind == kind
        ]
        return sorted(claims, key=lambda claim: (claim.record.name, claim.entry.distribution))

    def _owner(self, claims: Iterable[_Claim]) -> _Claim | None:
        """Whose the bare name is: the only claim's, or GEM's own; otherwise nobody's."""
        candidates = list(claims)
        own = [claim for claim in candidates if claim.entry.built_in]
        best = own or candidates
        return best[0] if len(best) == 1 else None

    def _selection(self, claim: _Claim, options: Mapping[str, Any]) -> Selection[PluginRecord]:
        claims = [c for c in self._claims(claim.record.kind) if c.record.name == claim.record.name]
        bare = self._owner(claims) == claim
        return Selection(
            name=claim.record.name if bare else claim.qualified,
            record=claim.record,
            options=options,
            distribution=claim.entry.distribution,
            version=claim.entry.version,
        )

    def _find(self, kind: str, name: str) -> _Claim:
        distribution, slash, bare = name.rpartition("/")
        claims = [claim for claim in self._claims(kind) if claim.record.name == bare]
        if slash:
            wanted = normalize(distribution)
            claims = [c for c in claims if normalize(c.entry.distribution) == wanted]
        if not claims:
            raise self._unknown(kind, name, distribution or bare)
        owner = self._owner(claims)
        if owner is not None:
            return owner
        origins = sorted({claim.entry.origin for claim in claims})
        if len(origins) == 1:
            plugins = " and ".join(f"'{claim.entry.name}'" for claim in claims)
            raise UsageError(
                f"{kind} '{name}' is claimed by the plugins {plugins}, both of {origins[0]}: "
                "report this to its author"
            )
        choices = " or ".join(f"'{claim.qualified}'" for claim in claims)
        raise UsageError(
            f"{kind} '{name}' is claimed by {' and by '.join(origins)}: write {choices}"
        )

    def _unknown(self, kind: str, name: str, hint: str) -> UsageError | PluginError:
        failed = [plugin for plugin in self.plugins if plugin.status == "failed"]
        for plugin in failed:
            if plugin.entry.answers_to(hint):
                return PluginError(
                    f"{kind} '{name}': {plugin.title} could not be loaded: {plugin.reason}"
                )
        for plugin in self.plugins:
            if plugin.status == "disabled" and plugin.entry.answers_to(hint):
                return UsageError(f"{kind} '{name}': {plugin.title} is disabled: {plugin.reason}")
        error = unknown_name(kind, name, {claim.record.name for claim in self._claims(kind)})
        notes = []
        if failed:
            names = ", ".join(plugin.entry.name for plugin in failed)
            notes.append(f"{_count(failed)} could not be loaded: {names}")
        disabled = [plugin for plugin in self.plugins if plugin.status == "disabled"]
        if disabled:
            notes.append(f"{_count(disabled)} disabled by GEM_PLUGINS or --no-plugins")
        if not notes:
            return error
        return UsageError(f"{error}; {' and '.join(notes)}, see gem plugins list")


def _count(plugins: list[LoadedPlugin]) -> str:
    return "1 plugin" if len(plugins) == 1 else f"{len(plugins)} plugins"


_SETTINGS: ContextVar[HostSettings | None] = ContextVar("gem_host_settings", default=None)


@contextmanager
def host_settings(settings: HostSettings) -> Iterator[None]:
    """Make `get_host()` use `settings` within the block; the command line does so once."""
    token = _SETTINGS.set(settings)
    try:
        yield
    finally:
        _SETTINGS.reset(token)


def get_host(settings: HostSettings | None = None) -> PluginHost:
    """Get the host of this process, loaded once for the same settings.

    Without `settings`, those of `host_settings` hold; outside any such block, the environment's.
    """
    return _discover(settings or _SETTINGS.get() or HostSettings.from_environment())


@functools.cache
def _discover(settings: HostSettings) -> PluginHost:
    return PluginHost.discover(settings)
