"""The two kinds of folder that an expert can be added from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from gemcore.errors import UsageError
from gemcore.experts.card import is_expert_name
from gemcore.experts.expert_set import expert_folders, read_set
from gemcore.experts.files import CARD, Expert, is_expert_folder, read_expert
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.experts.peft import CONFIG, is_peft_folder, peft_base_name, read_peft

if TYPE_CHECKING:
    from gemcore.experts.library import SetPlace
    from gemcore.plugins import PluginHost


@attrs.frozen(kw_only=True)
class ExpertSource:
    """What the user said of an expert to be added; None where they said nothing.

    Attributes:
        folder: where it is.
        name: what it is to be called.
        domain, licence, model: what a LoRA adapter does not say itself.
    """

    folder: Path
    name: str | None = None
    domain: str | None = None
    licence: str | None = None
    model: str | None = None


def open_expert(source: ExpertSource, place: SetPlace, host: PluginHost) -> Expert:
    """Open an expert or a LoRA adapter that is to be added to a set.

    Raises:
        UsageError: there is none, options do not go with it, or it is for another base model.
        FormatError: it is malformed.
    """
    if source.name is not None and not is_expert_name(source.name):
        raise UsageError(
            f"an expert cannot be called {source.name!r}: use up to 64 lower-case letters, digits, "
            "'.', '_' or '-', of which the first is a letter or digit"
        )
    if is_expert_folder(source.folder):
        return _own_form(source)
    if is_peft_folder(source.folder):
        return _adapter(source, place, host)
    if not source.folder.is_dir():
        raise UsageError(f"no such folder: {source.folder}")
    raise UsageError(
        f"{source.folder} is no expert: there is neither {CARD} (GEM's own form) nor {CONFIG} (a LoRA "
        "adapter) in it"
    )


def _own_form(source: ExpertSource) -> Expert:
    for option in ("domain", "licence", "model"):
        if getattr(source, option) is not None:
            raise UsageError(
                f"--{option} is for LoRA adapters: {source.folder} has a card, which says it already"
            )
    expert = read_expert(source.folder)
    if source.name is None:
        return expert
    return attrs.evolve(expert, card=attrs.evolve(expert.card, name=source.name))


def _adapter(source: ExpertSource, place: SetPlace, host: PluginHost) -> Expert:
    from gemcore.models.sources import load_checkpoint

    name = source.name or source.folder.resolve().name.lower()
    if not is_expert_name(name):
        raise UsageError(f"the folder's name {name!r} cannot be an expert's: give --name")
    experts = read_set(place.folder) if expert_folders(place.folder) else None
    model = source.model or (experts.base_name if experts else None)
    if model is None:
        raise UsageError(
            f"a LoRA adapter does not hold its base model's fingerprint, and {place.folder} is a new "
            "set: name the base model with --model"
        )
    checkpoint = load_checkpoint(model, host)
    if experts is not None:
        experts.check_base(checkpoint)
    said = peft_base_name(source.folder)
    expert = read_peft(
        source.folder,
        checkpoint.config,
        name=name,
        base=experts.base if experts else base_fingerprint(checkpoint),
        base_name=experts.base_name if experts else checkpoint.name,
        domain=source.domain,
        licence=source.licence or "unknown",
    )
    if said is not None:
        click.echo(
            f"the adapter says that it is for '{said}', and its shapes fit '{expert.card.base_name}': "
            "whether they are the same model cannot be checked",
            err=True,
        )
    return expert
