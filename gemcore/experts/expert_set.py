"""Experts that work together: all of one base model and one rank, in the order of a router's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from gemcore.errors import FormatError, UsageError
from gemcore.experts.card import unit_kind, unit_order
from gemcore.experts.files import Expert, is_expert_folder, read_expert
from gemcore.experts.fingerprint import base_fingerprint
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import weight_units


def _in_order(experts: Any) -> tuple[Expert, ...]:
    return tuple(experts)


@attrs.frozen(kw_only=True, eq=False)
class ExpertSet:
    """Experts of one base model and one rank.

    Attributes:
        experts: in the order of a router's weights.
        folder: where they were read from; None for a set that was put together in memory.
    """

    experts: tuple[Expert, ...] = attrs.field(converter=_in_order)
    folder: Path | None = None

    def __attrs_post_init__(self) -> None:
        if not self.experts:
            raise UsageError(f"{self.title} holds no experts: add one with gem experts add")
        for i, expert in enumerate(self.experts):
            problem = self.objection(expert, self.experts[:i])
            if problem:
                raise FormatError(f"{self.title} cannot be used: {problem}")

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"expert set {self.folder}" if self.folder else "the expert set"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the experts, in order."""
        return tuple(expert.card.name for expert in self.experts)

    @property
    def rank(self) -> int:
        """Rank of every delta."""
        return self.experts[0].card.rank

    @property
    def base(self) -> str:
        """Fingerprint of the base model."""
        return self.experts[0].card.base

    @property
    def base_name(self) -> str:
        """What the base model is called."""
        return self.experts[0].card.base_name

    @property
    def units(self) -> tuple[str, ...]:
        """Every unit that any expert has a delta on, in the order of `unit_order`."""
        found = {unit for expert in self.experts for unit in expert.card.units}
        return tuple(sorted(found, key=unit_order))

    @property
    def bytes(self) -> int:
        """Size of all deltas."""
        return sum(expert.bytes for expert in self.experts)

    @property
    def digest(self) -> str:
        """SHA-256 over the experts' names and digests in order: what a compiled model depends on."""
        whole = hashlib.sha256()
        for expert in self.experts:
            whole.update(f"{expert.card.name}\0{expert.digest}\n".encode())
        return whole.hexdigest()

    def expert(self, name: str) -> Expert:
        """The expert of that name; an unknown one raises UsageError with those that there are."""
        for expert in self.experts:
            if expert.card.name == name:
                return expert
        from gemcore.errors import unknown_name

        raise unknown_name("expert", name, self.names)

    def objection(self, expert: Expert, others: tuple[Expert, ...] | None = None) -> str:
        """Why `expert` cannot be beside `others` (the experts of this set), in words; or empty."""
        for other in self.experts if others is None else others:
            problem = _clash(other, expert)
            if problem:
                return problem
        return ""

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Check that the experts were made for this model.

        Raises:
            UsageError: they are for another; both names are given.
            FormatError: a delta has another shape than the model's weight.
        """
        found = base_fingerprint(checkpoint)
        if found != self.base:
            raise UsageError(
                f"{self.title} is for base model '{self.base_name}' (fingerprint {self.base[:12]}…), but "
                f"model '{checkpoint.name}' has fingerprint {found[:12]}…: use --model "
                f"{self.base_name}, or experts that were trained for '{checkpoint.name}'"
            )
        shapes = {unit.name: unit.shape for unit in weight_units(checkpoint.config)}
        for expert in self.experts:
            for unit in expert.card.units:
                if shapes.get(unit) != expert.unit_shape(unit):
                    raise FormatError(
                        f"expert '{expert.card.name}' of {self.title} cannot be used: its delta of unit "
                        f"'{unit}' is for a weight of shape {list(expert.unit_shape(unit))}, but model "
                        f"'{checkpoint.name}' has {list(shapes[unit]) if unit in shapes else 'no such unit'}"
                    )

    def stacked(self) -> dict[str, npt.NDArray[np.float16]]:
        """All deltas by unit, zeros where an expert has none.

        Returns:
            `<unit>.down` float16 `[experts, in, rank]` and `<unit>.up` float16 `[experts, rank, out]`
            for each of `units`, in their order.
        """
        stacks: dict[str, npt.NDArray[np.float16]] = {}
        for unit in self.units:
            rows, columns = self._unit_shape(unit)
            down = np.zeros((len(self.experts), columns, self.rank), dtype=np.float16)
            up = np.zeros((len(self.experts), self.rank, rows), dtype=np.float16)
            for i, expert in enumerate(self.experts):
                if unit in expert.card.units:
                    down[i], up[i] = expert.tensors[f"{unit}.down"], expert.tensors[f"{unit}.up"]
            stacks[f"{unit}.down"], stacks[f"{unit}.up"] = down, up
        return stacks

    def _unit_shape(self, unit: str) -> tuple[int, int]:
        owner = next(expert for expert in self.experts if unit in expert.card.units)
        return owner.unit_shape(unit)


def _clash(first: Expert, second: Expert) -> str:
    """Why two experts cannot be in one set, as a sentence's end; empty where they can."""
    one, two = first.card, second.card
    if one.name == two.name:
        return f"two experts are called '{one.name}'"
    if one.base != two.base:
        return (
            f"expert '{one.name}' is for base model '{one.base_name}' (fingerprint {one.base[:12]}…), but "
            f"expert '{two.name}' is for '{two.base_name}' ({two.base[:12]}…)"
        )
    if one.rank != two.rank:
        return (
            f"expert '{one.name}' has rank {one.rank}, but expert '{two.name}' has rank {two.rank}"
        )
    ours = unit_shapes(first)
    for kind, shape in unit_shapes(second).items():
        if kind in ours and ours[kind] != shape:
            return (
                f"expert '{one.name}' has deltas for weights {kind} of shape {list(ours[kind])}, but "
                f"expert '{two.name}' for shape {list(shape)}"
            )
    return ""


def unit_shapes(expert: Expert) -> MappingProxyType[str, tuple[int, int]]:
    """`(out, in)` of each kind of unit; in a model, units of one kind have one shape in all layers."""
    return MappingProxyType(
        {unit_kind(unit): expert.unit_shape(unit) for unit in expert.card.units}
    )


def expert_folders(folder: Path) -> tuple[Path, ...]:
    """The folders of a set's experts, sound or not, in the order of their names.

    Hidden folders are what an interrupted command has left: they are passed over.
    """
    if not folder.is_dir():
        return ()
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    return tuple(sorted(filter(is_expert_folder, found), key=lambda path: path.name))


def read_set(folder: Path) -> ExpertSet:
    """Open every expert of a folder, in the order of their names, and check that they go together.

    Raises:
        UsageError: there is no such folder, or no expert in it.
        FormatError: an expert is damaged, two are for different base models or of different ranks, or
            a folder is called otherwise than its expert.
        GemError: a file cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"no expert set at {folder}: there is no such folder")
    experts = []
    for path in expert_folders(folder):
        expert = read_expert(path)
        if expert.card.name != path.name:
            raise FormatError(
                f"{path} holds an expert called '{expert.card.name}': rename the folder to that"
            )
        experts.append(expert)
    return ExpertSet(experts=experts, folder=folder)
