"""`gem targets`: what models can be compiled for."""

from __future__ import annotations

import json

import click

from gemcore.cli.main import PluginGroup


@click.group(cls=PluginGroup, invoke_without_command=True)
@click.pass_context
def targets(context: click.Context) -> None:
    """List the hardware targets."""
    if context.invoked_subcommand is None:
        context.invoke(list_targets, as_json=False)


@targets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_targets(*, as_json: bool) -> None:
    """List the hardware targets that are installed."""
    from gemcore.plugins import get_host

    rows = [
        {
            "name": record.name,
            "summary": record.summary,
            "capabilities": sorted(record.capabilities),
        }
        for record in sorted(get_host().targets(), key=lambda record: record.name)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(str(row["name"])) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['summary']}")
