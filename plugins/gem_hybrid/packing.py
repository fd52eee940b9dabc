"""Packing with calibrated rounding, layer by layer: each layer is calibrated on what it will really read.

The calibration text runs through the layers that are rounded already, so that a layer makes up for what
those before it have lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from gem_hybrid.calibration import Calibration
from gem_hybrid.rounding import damping_for, round_calibrated, rounding_order
from gem_hybrid.sensitivity import embedding_hessian, lossless
from gem_hybrid.states import (
    final_norm,
    float_layer,
    module_of,
    rotation_of,
    run_layer,
    set_weight,
    units_of_layer,
)
from gem_hybrid.statistics import add_squares, mean_square
from gem_hybrid.unfinished import UnfinishedWeights
from gemcore.errors import FormatError, GemError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, WeightUnit, weight_units
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
        self._states: list[Tensor] = []
        self._layer: Any = None
        self._hessians: dict[str, Tensor] = {}
        self._kept = kept

    def __call__(
        self, checkpoint: Checkpoint, unit: WeightUnit, scheme: Scheme
    ) -> tuple[npt.NDArray[Any], bool]:
        """One packed weight, and whether it holds exactly what the file holds."""
        place, reading = self._place[unit.name], unit.name not in (EMBEDDING, HEAD)
        if reading and self._layer is None and place <= self._last:
            self._enter(int(unit.name.split(".")[1]))
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
        if unit.name == EMBEDDING:
            return embedding_hessian(self._checkpoint, self._calibration)
        if unit.name == HEAD:
            return mean_square(final_norm(self._checkpoint, self._states))
        return self._hessians.pop(unit.name)

    def _enter(self, index: int) -> None:
        """Read a layer's float weights, and see what each of them is given to read."""
        config = self._checkpoint.config
        units = units_of_layer(config, index)
        weights = {u.name: torch.from_numpy(float_unit(self._checkpoint, u)) for u in units}
        self._layer = float_layer(self._checkpoint, index, weights)
        handles, sums = [], {}
        for unit in units:
            if unit.name not in self._rounded or self._has(unit):
                continue
            sums[unit.name] = torch.zeros(unit.shape[1], unit.shape[1])
            module = module_of(self._layer, unit)
            handles.append(module.register_forward_pre_hook(add_squares(sums[unit.name])))
        if not sums:
            return
        run_layer(self._layer, config, rotation_of(config), self._states)
        for handle in handles:
            handle.remove()
        tokens = sum(map(len, self._states))
        self._hessians = {name: total / tokens for name, total in sums.items()}

    def _has(self, unit: WeightUnit) -> bool:
        scheme = get_scheme(self._schemes[unit.name])
        return self._kept is not None and self._kept.read(unit, scheme) is not None

    def _advance(self, unit: WeightUnit, weight: Tensor) -> None:
        """Take over a weight as it was rounded; behind a layer's last one, run the layer."""
        if unit.name == EMBEDDING:
            self._states = [weight[torch.tensor(window)] for window in self._windows]
            return
        set_weight(module_of(self._layer, unit), weight)
        if unit.name.endswith(".feed_forward.down"):
            config = self._checkpoint.config
            self._states = run_layer(self._layer, config, rotation_of(config), self._states)
            self._layer = None
