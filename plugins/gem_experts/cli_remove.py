"""`gem experts remove`."""

from __future__ import annotations

import click

from gem_experts.cli_options import experts_option, say_change, the_place, warn_of_routers


@click.command("remove")
@click.argument("name")
@experts_option
def remove_command(*, name: str, choice: str | None) -> None:
    """Remove expert NAME from a set; the others are not touched.

    The experts that come with GEM stay as they are: the set is copied first, and the copy is used
    from then on.
    """
    from gemcore.experts.changes import remove_expert
    from gemcore.experts.library import router_files

    place = the_place(choice)
    change = remove_expert(place, name)
    say_change(change, place)
    click.echo(f"removed '{name}' from {change.folder}")
    warn_of_routers(router_files(change.folder), "fit it again with gem experts fit-router")
