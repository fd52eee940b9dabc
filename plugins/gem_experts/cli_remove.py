"""`gem experts remove`."""

from __future__ import annotations

import click

from gem_experts.cli_options import experts_option, say_change, the_place


@click.command("remove")
@click.argument("name")
@experts_option
def remove_command(*, name: str, choice: str | None) -> None:
    """Remove expert NAME from a set; the others are not touched.

    The experts that come with GEM stay as they are: the set is copied first, and the copy is used
    from then on.
    """
    from gem_experts.refit import forget_expert
    from gemcore.experts.changes import remove_expert
    from gemcore.plugins import get_host

    place = the_place(choice)
    change = remove_expert(place, name)
    say_change(change, place)
    click.echo(f"removed '{name}' from {change.folder}")
    forget_expert(change.folder, name, get_host())
