"""Adding experts to a set and taking them out, without touching any other's files."""

from __future__ import annotations

from pathlib import Path

import attrs

from gemcore.errors import UsageError, unknown_name
from gemcore.experts.expert_set import ExpertSet, expert_folders, read_set
from gemcore.experts.files import Expert, remove_folder, write_expert
from gemcore.experts.library import SetPlace, own_copy


@attrs.frozen(kw_only=True)
class Change:
    """What adding or removing an expert did.

    Attributes:
        name: of the expert.
        folder: of the set that was changed.
        copied: the set was another's, so it was copied to `folder` first.
    """

    name: str
    folder: Path
    copied: bool


def add_expert(place: SetPlace, expert: Expert) -> Change:
    """Write an expert into a set; the first one of a new folder decides on base model and rank.

    Raises:
        UsageError: the set has an expert of that name, or is of another base model, rank or shape.
        FormatError: the set itself is damaged.
        GemError: it cannot be written. Nothing is half-written.
    """
    name = expert.card.name
    if expert_folders(place.folder):
        _check_fits(read_set(place.folder), expert)
    folder = own_copy(place).folder
    write_expert(folder / name, expert.card, expert.tensors)
    return Change(name=name, folder=folder, copied=place.own_folder is not None)


def remove_expert(place: SetPlace, name: str) -> Change:
    """Remove an expert from a set, sound or not.

    Raises:
        UsageError: the set has no expert of that name, or no other.
        GemError: it cannot be removed.
    """
    names = [folder.name for folder in expert_folders(place.folder)]
    if name not in names:
        raise unknown_name("expert", name, names)
    if len(names) == 1:
        raise UsageError(
            f"'{name}' is the only expert of set '{place.name}': delete the folder {place.folder} to "
            "be rid of the whole set"
        )
    folder = own_copy(place).folder
    remove_folder(folder / name)
    return Change(name=name, folder=folder, copied=place.own_folder is not None)


def _check_fits(experts: ExpertSet, expert: Expert) -> None:
    card = expert.card
    if card.name in experts.names:
        raise UsageError(
            f"{experts.title} has an expert called '{card.name}' already: give --name, or remove that "
            "one first"
        )
    if card.base == experts.base and card.rank != experts.rank:
        raise UsageError(
            f"expert '{card.name}' has rank {card.rank}, but those of {experts.title} have rank "
            f"{experts.rank}: give --to-rank {experts.rank} to convert it"
        )
    problem = experts.objection(expert)
    if problem:
        raise UsageError(f"expert '{card.name}' cannot be added to {experts.title}: {problem}")
