"""`gem targets`: what models can be compiled for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gemcore.cli.main import PluginGroup

if TYPE_CHECKING:
    from gemcore.records import PluginRecord
    from gemcore.reports import DeviceProfile, Readiness, Sourced


@click.group(cls=PluginGroup, invoke_without_command=True)
@click.pass_context
def targets(context: click.Context) -> None:
    """List the hardware targets."""
    if context.invoked_subcommand is None:
        context.invoke(list_targets, as_json=False)


@targets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_targets(*, as_json: bool) -> None:
    """List the hardware targets that are installed, and what can be done with each one here."""
    from gemcore.plugins import get_host

    records = sorted(get_host().targets(), key=lambda record: record.name)
    rows = [(record, _readiness(record)) for record in records]
    if as_json:
        click.echo(json.dumps([_as_json(*row) for row in rows], indent=2))
        return
    width = max((len(record.name) for record in records), default=0)
    for record, ready in rows:
        click.echo(f"{record.name:<{width}}  {_state(ready):<26}  {record.summary}")


@targets.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_target(*, name: str, as_json: bool) -> None:
    """Show a target: what it can do, what can be done here, and what the device is."""
    import attrs

    from gemcore.plugins import get_host

    host = get_host()
    selection = host.select("target", name)
    record = selection.record
    target = host.create(selection)
    ready, profile = target.readiness(), target.profile()
    if as_json:
        cache = {"preferred_cache": record.preferred_cache}
        values = {**_as_json(record, ready), **cache, "profile": attrs.asdict(profile)}
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(f"{record.name}: {record.summary}")
    for line in (*_readiness_lines(ready), *profile_lines(profile)):
        click.echo(f"  {line}")
    click.echo(f"  can       {', '.join(sorted(record.capabilities))}")
    click.echo(f"  KV cache  {record.preferred_cache}, if no other is asked for")


def _readiness(record: PluginRecord) -> Readiness:
    """What a target says of this machine; its reason where it cannot even be asked."""
    from gemcore.errors import GemError
    from gemcore.plugins import get_host
    from gemcore.reports import Readiness

    host = get_host()
    try:
        ready: Readiness = host.create(host.select("target", record.name)).readiness()
    except GemError as error:
        return Readiness(execution="none", build=str(error), run=str(error))
    return ready


def _state(ready: Readiness) -> str:
    if ready.build and ready.run:
        return "tools are missing"
    how = {"none": "not run here", "predicted": "only estimated here"}.get(
        ready.execution, f"runs here, {ready.execution}"
    )
    if ready.run:
        how = "compiles here"
    return how if not ready.build else f"{how}, not compiled"


def _as_json(record: PluginRecord, ready: Readiness) -> dict[str, Any]:
    import attrs

    return {
        "name": record.name,
        "summary": record.summary,
        "capabilities": sorted(record.capabilities),
        **attrs.asdict(ready),
    }


def _readiness_lines(ready: Readiness) -> Iterator[str]:
    yield f"compile   {ready.build or 'can be done here'}"
    run = {"none": "not on this machine", "predicted": "only its cost is estimated"}
    yield f"run       {ready.run or run.get(ready.execution, ready.execution)}"


def profile_lines(profile: DeviceProfile) -> Iterator[str]:
    """What a device is, one line a figure, each with its source."""
    yield f"device    {profile.device or profile.name}, {profile.cores} cores"
    figures: tuple[tuple[str, Sourced | None, float, str], ...] = (
        ("clock", profile.clock_hz, 1e9, "GHz"),
        ("memory", profile.memory_bytes, 2**30, "GiB"),
        ("bandwidth", profile.bandwidth, 1e9, "GB/s"),
        ("int8", profile.int8_rate, 1e9, "G multiply-accumulates/s"),
        ("float16", profile.fp16_rate, 1e9, "G multiply-accumulates/s"),
        ("float32", profile.fp32_rate, 1e9, "G multiply-accumulates/s"),
        ("energy", profile.joules_per_token, 1, "J a token"),
    )
    for name, figure, unit, spelled in figures:
        if figure is not None:
            yield f"{name:<9} {figure.value / unit:.4g} {spelled}  ({figure.source})"
