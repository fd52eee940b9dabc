"""`gem plugins`: what is installed, what of it works, and what each part can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import click

from gemcore.cli.main import PluginGroup
from gemcore.cli.plugins_authoring import install, new, uninstall, validate
from gemcore.discovery import HostSettings, normalize
from gemcore.errors import PluginError, UsageError, unknown_name
from gemcore.loading import HOOK_RECORDS
from gemcore.plugins import PluginStatus, get_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gemcore.discovery import Entry
    from gemcore.plugins import LoadedPlugin, PluginHost
    from gemcore.records import Option, PluginRecord

COLUMNS = ("name", "kind", "distribution", "version", "status", "load ms", "reason")
KINDS = tuple(kind.replace(" ", "-") for kind in (record.kind for record in HOOK_RECORDS.values()))


@click.group(cls=PluginGroup)
def plugins() -> None:
    """List and describe plugins; make, check and install them."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; load_ms is in milliseconds.")
def list_plugins(*, as_json: bool) -> None:
    """List routers, quantizers, metrics, targets, model sources, benchmarks, experts and commands.

    Every plugin that is disabled or could not be loaded has a row with the reason.
    """
    host = get_host()
    rows = [*host.status(), *command_rows(host.commands)]
    if as_json:
        import json

        click.echo(json.dumps([_as_json(row) for row in rows], indent=2))
        return
    for line in table([[name.upper() for name in COLUMNS], *map(_cells, rows)]):
        click.echo(line)


@plugins.command()
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), help="Only this kind, where several share a name."
)
def show(name: str, kind: str | None) -> None:
    """Describe NAME: a router, quantizer, metric, target, model source, plugin and so on.

    DISTRIBUTION/NAME says which one is meant where two distributions use the same name.
    """
    host = get_host()
    wanted = kind.replace("-", " ") if kind else None
    found = _find(host, name, wanted)
    for index, (plugin, record) in enumerate(found):
        if index:
            click.echo()
        for line in describe(host, plugin, record):
            click.echo(line)


for _command in (new, validate, install, uninstall):
    plugins.add_command(_command)


def command_rows(entries: Sequence[Entry]) -> list[PluginStatus]:
    """One row for each command of a plugin; commands are never imported for a listing."""
    from gemcore.cli.main import CORE_COMMANDS

    settings = HostSettings.from_environment(no_plugins=_no_plugins())
    rows = []
    for entry in entries:
        refusal = settings.refusal(entry)
        rivals = [
            other.origin
            for other in entries
            if other.name == entry.name and other is not entry and not settings.refusal(other)
        ]
        reason = refusal or ""
        if not refusal and entry.name in CORE_COMMANDS:
            reason = f"conflict: 'gem {entry.name}' is GEM's own command"
        elif not refusal and rivals:
            reason = f"conflict: also claimed by {' and '.join(rivals)}; neither can be used"
        rows.append(
            PluginStatus(
                name=entry.name,
                kind="command",
                plugin=entry.name,
                distribution=entry.distribution,
                version=entry.version,
                status="disabled" if refusal else "active",
                reason=reason,
                load_seconds=None,
            )
        )
    return rows


def describe(host: PluginHost, plugin: LoadedPlugin, record: PluginRecord) -> Iterator[str]:
    """Everything that a record says, as lines of text."""
    entry = plugin.entry
    yield f"{record.name} ({record.kind})"
    yield f"  {record.summary}"
    facts = {
        "distribution": entry.origin,
        "plugin": entry.name,
        "loader": record.loader,
        "reference": record.reference_url or "-",
        "capabilities": ", ".join(sorted(record.capabilities)) or "-",
    }
    if record.deprecated is not None:
        facts["deprecated"] = str(record.deprecated.warning(record.name))
    conflict = host.conflict(record.kind, record, entry.distribution)
    if conflict:
        facts["conflict"] = conflict.removeprefix("conflict: ")
    for line in table(list(facts.items())):
        yield f"  {line}"
    if not record.options:
        yield "  options       none"
        return
    yield "  options"
    heading = ("option", "type", "default", "range", "help")
    for line in table([heading, *(_option_cells(option) for option in record.options)]):
        yield f"    {line}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns; the last one is as long as it is.

    >>> table([("name", "kind"), ("none", "router"), ("q4a-g32", "quantizer")])
    ['name     kind', 'none     router', 'q4a-g32  quantizer']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _no_plugins() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("no_plugins"))


def _find(host: PluginHost, name: str, kind: str | None) -> list[tuple[LoadedPlugin, PluginRecord]]:
    distribution, _, bare = name.rpartition("/")
    everything = [
        (plugin, record)
        for plugin in host.plugins
        for record in plugin.records
        if kind in (None, record.kind)
        and (not distribution or normalize(plugin.entry.distribution) == normalize(distribution))
    ]
    found = [(plugin, record) for plugin, record in everything if record.name == bare]
    found = found or [(p, record) for p, record in everything if p.entry.answers_to(name)]
    if found:
        return found
    for plugin in host.plugins:
        if plugin.status != "active" and plugin.entry.answers_to(distribution or bare):
            if plugin.status == "disabled":
                raise UsageError(f"{plugin.title} is disabled: {plugin.reason}")
            raise PluginError(f"{plugin.title} could not be loaded: {plugin.reason}")
    names = {record.name for _, record in everything}
    raise unknown_name(kind or "plugin", name, names | {p.entry.name for p in host.plugins})


def _milliseconds(row: PluginStatus) -> float | None:
    return None if row.load_seconds is None else round(row.load_seconds * 1000, 1)


def _as_json(row: PluginStatus) -> dict[str, Any]:
    values = attrs.asdict(row)
    del values["load_seconds"]
    return {**values, "load_ms": _milliseconds(row)}


def _cells(row: PluginStatus) -> tuple[str, ...]:
    load = _milliseconds(row)
    return (
        row.name,
        row.kind or "-",
        row.distribution or "-",
        row.version or "-",
        row.status,
        "-" if load is None else f"{load:.1f}",
        row.reason or "-",
    )


def _option_cells(option: Option) -> tuple[str, ...]:
    if option.choices is not None:
        allowed = ", ".join(map(str, option.choices))
    elif option.minimum is None and option.maximum is None:
        allowed = "-"
    else:
        low = "" if option.minimum is None else f"{option.minimum:g}"
        high = "" if option.maximum is None else f"{option.maximum:g}"
        allowed = f"{'above ' if option.above_minimum else ''}{low} to {high}".strip()
    default = "-" if option.default is None else str(option.default)
    return (option.name, option.type.__name__, default, allowed, option.help or "-")
