"""`gem experts show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from gem_experts.cli_options import experts_option, json_option, the_place
from gemcore.cli.models import human_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gemcore.experts.files import Expert


@click.command("show")
@click.argument("name")
@experts_option
@json_option
def show_command(*, name: str, choice: str | None, as_json: bool) -> None:
    """Show the card of expert NAME: base model, units, licence, data, how it was made, its scores."""
    from gemcore.errors import unknown_name
    from gemcore.experts.expert_set import expert_folders
    from gemcore.experts.files import read_expert

    # Not the whole set: one that is damaged need not hide the others.
    folders = {folder.name: folder for folder in expert_folders(the_place(choice).folder)}
    if name not in folders:
        raise unknown_name("expert", name, folders)
    expert = read_expert(folders[name])
    if as_json:
        values = {**expert.card.to_json(), "bytes": expert.bytes, "folder": str(expert.folder)}
        click.echo(json.dumps(values, indent=2))
        return
    for line in card_lines(expert):
        click.echo(line)


def card_lines(expert: Expert) -> Iterator[str]:
    """Everything that a card says, as lines of text."""
    card = expert.card
    yield f"{card.name} (expert)"
    yield f"  {card.summary}"
    facts = {
        "domain": card.domain,
        "base model": f"{card.base_name}, fingerprint {card.base}",
        "rank": str(card.rank),
        "size": human_size(expert.bytes),
        "units": ", ".join(units_in_words(card.units)),
        "licence": card.licence,
        "command": card.command or "-",
        "training": f"{card.steps} steps, seed {card.seed}" if card.steps else "-",
        "sha256": card.sha256,
        "folder": str(expert.folder),
    }
    for name, value in facts.items():
        yield f"  {name + ':':<12} {value}"
    yield "  data:" if card.data else "  data:        -"
    for source in card.data:
        size = human_size(source.bytes)
        yield f"    {source.name}: {source.items} items, {size}, {source.licence}"
    yield "  scores:" if card.scores else "  scores:      -"
    yield from _tree(card.scores, "    ")


def units_in_words(units: Sequence[str]) -> list[str]:
    """Units by kind, with the ranges of their layers.

    >>> units_in_words([f"layers.{i}.attention.qkv" for i in (1, 2, 3, 7)])
    ['attention.qkv of layers 1-3, 7']
    """
    layers: dict[str, list[int]] = {}
    for unit in units:
        _, layer, kind = unit.split(".", 2)
        layers.setdefault(kind, []).append(int(layer))
    return [f"{kind} of layers {_ranges(sorted(found))}" for kind, found in layers.items()]


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def _tree(values: Any, indent: str) -> Iterator[str]:
    for name, value in values.items():
        # Written as JSON, texts show no control characters of a stranger's in the terminal.
        title = name if name.isprintable() else json.dumps(name)
        if isinstance(value, dict) and value:
            yield f"{indent}{title}:"
            yield from _tree(value, indent + "  ")
        else:
            yield f"{indent}{title}: {json.dumps(value)}"
