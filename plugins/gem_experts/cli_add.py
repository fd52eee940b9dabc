"""`gem experts add`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gem_experts.cli_options import experts_option, say_change, the_place
from gemcore.cli.models import human_size

if TYPE_CHECKING:
    from gemcore.experts.library import SetPlace
    from gemcore.experts.ranks import RankChange


@click.command("add")
@click.argument("folder", type=click.Path(path_type=Path))
@experts_option
@click.option(
    "--name", help="What to call the expert; its own name, or the folder's, if not given."
)
@click.option("--to-rank", type=int, metavar="R", help="Convert its deltas to this rank.")
@click.option(
    "--examples",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Texts of its domain, from which fitted routers learn it: a line each, or JSON lines.",
)
@click.option(
    "-m", "--model", help="The base model of a LoRA adapter; that of the set if not given."
)
@click.option("--domain", help="The domain of a LoRA adapter; its name if not given.")
@click.option("--licence", help="The licence of a LoRA adapter.")
def add_command(
    *,
    folder: Path,
    choice: str | None,
    name: str | None,
    to_rank: int | None,
    examples: Path | None,
    model: str | None,
    domain: str | None,
    licence: str | None,
) -> None:
    """Add the expert in FOLDER to a set; the others are not touched.

    FOLDER holds an expert in GEM's own form, or a LoRA adapter of the library peft. A SET that is a
    folder and does not exist yet is made. The experts that come with GEM stay as they are: the set is
    copied first, and the copy is used from then on.
    """
    from gem_experts.refit import read_examples, refit_routers
    from gem_experts.sources import ExpertSource, open_expert
    from gemcore.experts.changes import add_expert
    from gemcore.experts.ranks import to_rank as convert
    from gemcore.plugins import get_host

    texts = read_examples(examples) if examples is not None else None
    place = _place_or_new(choice)
    source = ExpertSource(folder=folder, name=name, domain=domain, licence=licence, model=model)
    expert = open_expert(source, place, get_host())
    converted = None
    if to_rank is not None:
        expert, converted = convert(expert, to_rank)
    change = add_expert(place, expert)
    say_change(change, place)
    if converted is not None:
        click.echo(conversion_in_words(converted))
    units = "1 unit" if len(expert.card.units) == 1 else f"{len(expert.card.units)} units"
    click.echo(
        f"added '{change.name}' to {change.folder}: rank {expert.card.rank}, {units}, "
        f"{human_size(expert.bytes)}"
    )
    refit_routers(change.folder, change.name, texts, get_host())


def _place_or_new(choice: str | None) -> SetPlace:
    from gemcore.experts.library import SetPlace, looks_like_folder

    if choice is not None and looks_like_folder(choice):
        folder = Path(choice).expanduser()
        if not folder.exists():
            return SetPlace(name=choice, folder=folder)
    return the_place(choice)


def conversion_in_words(change: RankChange) -> str:
    """What another rank did, in one line."""
    ranks = f"rank {change.before} to {change.after}"
    if change.after >= change.before:
        return f"{ranks}: exact, only zeros were added"
    worst = change.worst_unit
    return (
        f"{ranks}: the deltas changed by {100 * change.error:.3g} % (relative Frobenius error), most in "
        f"{worst}, by {100 * change.unit_errors[worst]:.3g} %"
    )
