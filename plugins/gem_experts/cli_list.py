"""`gem experts list`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from gem_experts.cli_options import experts_option, json_option, the_place
from gemcore.cli.models import human_size
from gemcore.cli.plugins import table

if TYPE_CHECKING:
    from gemcore.experts.expert_set import ExpertSet

COLUMNS = ("name", "domain", "rank", "size", "licence", "score")


@click.command("list")
@experts_option
@json_option
def list_command(*, choice: str | None, as_json: bool) -> None:
    """List the experts of a set: domain, rank, size, licence, and the main score of each.

    Every expert's files are checked.
    """
    from gemcore.experts.expert_set import read_set
    from gemcore.experts.library import router_files

    place = the_place(choice)
    experts = read_set(place.folder)
    routers = sorted(router_files(place.folder))
    if as_json:
        values = {"set": place.name, "folder": str(place.folder), "routers": routers}
        click.echo(json.dumps(values | set_values(experts), indent=2))
        return
    for line in set_table(experts):
        click.echo(line)
    click.echo(
        f"set {place.name}, for {experts.base_name}: {place.folder}"
        + (f"; fitted routers: {', '.join(routers)}" if routers else ""),
        err=True,
    )


def set_values(experts: ExpertSet) -> dict[str, Any]:
    """A set as JSON values; sizes in bytes."""
    return {
        "base": experts.base,
        "base_name": experts.base_name,
        "rank": experts.rank,
        "bytes": experts.bytes,
        "experts": [
            {**expert.card.to_json(), "bytes": expert.bytes, "main_score": expert.card.main_score}
            for expert in experts.experts
        ],
    }


def set_table(experts: ExpertSet) -> list[str]:
    """A set as aligned lines, with a heading."""
    rows = [
        (
            expert.card.name,
            expert.card.domain,
            str(expert.card.rank),
            human_size(expert.bytes),
            expert.card.licence,
            expert.card.main_score or "-",
        )
        for expert in experts.experts
    ]
    return table([tuple(column.upper() for column in COLUMNS), *rows])
