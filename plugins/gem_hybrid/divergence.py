"""The KL divergence of a packed model's next-token distributions from the float model's, measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy.typing as npt
import torch
from torch import Tensor

from gem_hybrid.states import (
    Windows,
    final_norm,
    float_layer,
    rotation_of,
    run_layer,
    units_of_layer,
)
from gemcore.errors import UsageError
from gemcore.models.checkpoint import Checkpoint
from gemcore.models.layout import EMBEDDING, HEAD, weight_units
from gemcore.models.weights import float_unit
from gemcore.packing import get_scheme, unpack_weight


@attrs.frozen(kw_only=True)
class Divergence:
    """How far a packed model is from the float model.

    Attributes:
        kl: mean of `Σ p·log(p / q)` over tokens, in nats: p the float model's, q the packed one's.
        standard_error: of that mean, with tokens taken as independent.
        tokens: how many were measured.
    """

    kl: float
    standard_error: float
    tokens: int


def measure_divergence(
    checkpoint: Checkpoint,
    schemes: Mapping[str, str],
    weights: Mapping[str, npt.NDArray[Any]],
    windows: Windows,
) -> Divergence:
    """Run both models side by side, layer by layer, in float32: only weights are rounded.

    What a compiled model loses further, by rounding activations to 8 bits, does not depend on the plan.

    Args:
        checkpoint: the float model.
        schemes: unit name to scheme name.
        weights: packed weights by name, as `Quantizer.apply` returns them.
        windows: token ids, each read by itself.

    Raises:
        UsageError: a model's logits are not finite.
    """
    config = checkpoint.config
    units = {unit.name: unit for unit in weight_units(config)}
    rotation = rotation_of(config)

    def exact(name: str) -> Tensor:
        return torch.from_numpy(float_unit(checkpoint, units[name]))

    def packed(name: str) -> Tensor:
        scheme, rows = get_scheme(schemes[name]), units[name].shape[0]
        return torch.from_numpy(unpack_weight(weights[f"{name}.packed"], scheme, rows))

    finals = []
    for source in (exact, packed):
        embedding = source(EMBEDDING)
        states = [embedding[torch.tensor(window)] for window in windows]
        del embedding
        for index in range(config.layers):
            own = {unit.name: source(unit.name) for unit in units_of_layer(config, index)}
            states = run_layer(float_layer(checkpoint, index, own), config, rotation, states)
        finals.append(final_norm(checkpoint, states))
    head = EMBEDDING if config.tied_head else HEAD
    heads = exact(head), packed(head)
    values = torch.cat(
        [_divergences(p @ heads[0].T, q @ heads[1].T) for p, q in zip(*finals, strict=True)]
    )
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"the logits of model '{checkpoint.name}' are not finite on this text")
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Divergence(kl=float(values.mean()), standard_error=spread, tokens=len(values))


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """KL of each token from logits `[tokens, vocabulary]`: float64 `[tokens]`."""
    p, q = torch.log_softmax(p, 1), torch.log_softmax(q, 1)
    return (p.exp() * (p - q)).double().sum(1)
