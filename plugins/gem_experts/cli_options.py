"""What the commands of `gem experts` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gemcore.experts.changes import Change
    from gemcore.experts.library import SetPlace

experts_option = click.option(
    "--experts",
    "choice",
    metavar="SET",
    help="The name of a set, or a folder; GEM's own experts if not given.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def the_place(choice: str | None) -> SetPlace:
    """Find the set that `--experts` names."""
    from gemcore.experts.library import find_set
    from gemcore.plugins import get_host

    return find_set(choice, get_host())


def say_change(change: Change, place: SetPlace) -> None:
    """Tell the user where a change went when the set was not their own."""
    if change.copied:
        click.echo(
            f"copied the experts of '{place.name}' to {change.folder}: from now on those are used",
            err=True,
        )


def warn_of_routers(names: Iterable[str], remedy: str) -> None:
    """Say that fitted routers do not know the experts as they are now."""
    for name in names:
        click.echo(
            f"router '{name}' of this set was fitted to the experts as they were: {remedy}",
            err=True,
        )
