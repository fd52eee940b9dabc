"""Packing with calibrated rounding: each weight is calibrated on what it will really read.

The calibration text runs through the weights that are rounded already, so that a weight makes up for what
those before it have lost, also those of its own layer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from gem_hybrid.calibration import Calibration
from gem_hybrid.rounding import damping_for, round_calibrated, rounding_order
from gem_hybrid.sensitivity import embedding_hessian, lossless
from gem_hybrid.states import (
    final_norm,
    finish,
    float_layer,
    layer_stages,
    module_of,
    rotation_of,
    set_weight,
    units_of_layer,
)
from gem_hybrid.statistics import mean_square
from gem_hybrid.unfinished import UnfinishedWeights
from gemcore.errors import FormatError, GemError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import (
    EMBEDDING,
    HEAD,
    WeightUnit,
    units_of,
    vocabulary_weight,
    weight_units,
)
from gemcore.models.weights import float_unit, pack_unit
from gemcore.packing import pack, unpack_weight
from gemcore.schemes import Scheme, get_scheme


class CalibratedPacker:
    """Packs the units of a model one after the other, in the order of `weight_units`.

    Args:
        checkpoint: the model.
        schemes: unit name to scheme name, of all units.
        calibration: what to calibrate with.
        damping: of the rounding; None for what the amount of text asks for.
        kept: weights that an earlier run has packed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        schemes: Mapping[str, str],
        calibration: Calibration,
        damping: float | None,
        kept: UnfinishedWeights | None = None,
    ) -> None:
        self._checkpoint, self._calibration, self._damping = checkpoint, calibration, damping
        self._windows = calibration.windows
        self._schemes = schemes
        units = weight_units(checkpoint.config)
        rounded = [
            get_scheme(schemes[unit.name]).grouped
            and not lossless(checkpoint, unit, get_scheme(schemes[unit.name]))
            for unit in units
        ]
        # Behind the last weight that is rounded nobody reads the states.
        self._last = max((i for i, yes in enumerate(rounded) if yes), default=-1)
        self._rounded = {unit.name for unit, yes in zip(units, rounded, strict=True) if yes}
        self._place = {unit.name: i for i, unit in enumerate(units)}
        self._embedding: list[Tensor] = []
        self._embedding_end = units_of(checkpoint.config, EMBEDDING)[-1]
        self._states: list[Tensor] = []
        self._layer: Any = None
        self._stages: Generator[tuple[str, list[Tensor]], None, list[Tensor]] | None = None
        self._read: list[Tensor] = []
        self._kept = kept

    def __call__(
        self, checkpoint: Checkpoint, unit: WeightUnit, scheme: Scheme
    ) -> tuple[npt.NDArray[Any], bool]:
        """One packed weight, and whether it holds exactly what the file holds."""
        place, reading = self._place[unit.name], vocabulary_weight(unit.name) is None
        if reading and place <= self._last:
            self._enter(unit)
        found = None if self._kept is None else self._kept.read(unit, scheme)
        if unit.name in self._rounded and found is not None:
            packed, exact = found, False
        elif unit.name in self._rounded:
            weight = float_unit(checkpoint, unit)
            try:
                damping = damping_for(unit.shape[1], self._calibration.tokens, self._damping)
                order = rounding_order(self._hessian(unit), damping, scheme.group)
                packed, exact = pack(round_calibrated(weight, order, scheme), scheme), False
            except GemError as error:
                raise FormatError(
                    f"{unit.sources[0]} of model '{checkpoint.name}': {error}"
                ) from error
            if self._kept is not None:
                self._kept.write(unit, packed)
        else:
            packed, exact = pack_unit(checkpoint, unit, scheme)
        if place < self._last:
            self._advance(unit, torch.from_numpy(unpack_weight(packed, scheme, unit.shape[0])))
        return packed, exact

    def _hessian(self, unit: WeightUnit) -> Tensor:
        if vocabulary_weight(unit.name) == EMBEDDING:
            return embedding_hessian(self._checkpoint, self._calibration, unit)
        if vocabulary_weight(unit.name) == HEAD:
            return mean_square(final_norm(self._checkpoint, self._states))
        return mean_square(self._read)

    def _enter(self, unit: WeightUnit) -> None:
        """See what a unit is given to read; before a layer's first one, take the layer's float weights."""
        config, index = self._checkpoint.config, int(unit.name.split(".")[1])
        if self._stages is None:
            units = units_of_layer(config, index)
            weights = {u.name: torch.from_numpy(float_unit(self._checkpoint, u)) for u in units}
            self._layer = float_layer(self._checkpoint, index, weights)
            self._stages = layer_stages(self._layer, config, rotation_of(config), self._states)
        name, self._read = next(self._stages)
        assert unit.name == f"layers.{index}.{name}", "units come in the order of a token"

    def _advance(self, unit: WeightUnit, weight: Tensor) -> None:
        """Take over a weight as it was rounded; behind a layer's last one, leave the layer."""
        whole = vocabulary_weight(unit.name)
        if whole is not None:
            if whole == EMBEDDING:
                self._embedding.append(weight)
            if unit == self._embedding_end:
                embedding = torch.cat(self._embedding)
                self._states = [embedding[torch.tensor(window)] for window in self._windows]
                self._embedding = []
            return
        set_weight(module_of(self._layer, unit), weight)
        if self._stages is not None and unit.name.endswith(".feed_forward.down"):
            self._states = finish(self._stages)
            self._layer = self._stages = None
            self._read = []
