"""The weights of a routed model, by the names that the decoder and its traced programs have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import nn

from gemcore.models.decoder import ExpertShape
from gemcore.models.weights import Weights

PRIOR = "prior"
"""What the weights of the network that gives the prior are called by: `prior.<parameter>`."""


def routed_weights(
    weights: Mapping[str, npt.NDArray[Any]],
    experts: ExpertShape,
    deltas: Mapping[str, npt.NDArray[Any]],
    router: Sequence[nn.Module | None] = (),
    prior: nn.Module | None = None,
) -> Weights:
    """Join the weights of the base model with those of experts and routers.

    Args:
        weights: of the base model.
        experts: which of its units carry deltas: `<unit>.packed` becomes `<unit>.base.packed`.
        deltas: `<unit>.down` `[experts, in, rank]` and `<unit>.up` `[experts, rank, out]`; float16, or
            float32 for a decoder on float arithmetic.
        router: module of each layer, or None.
        prior: the network that gives the prior, where the base model's first layers feed it.
    """
    found: Weights = {}
    for name, array in weights.items():
        unit, _, leaf = name.rpartition(".")
        found[f"{unit}.base.{leaf}" if unit in experts.layers else name] = array
    found |= deltas
    for layer, module in enumerate(router):
        found |= _tensors(module, f"layers.{layer}.router")
    return found | _tensors(prior, PRIOR)


def _tensors(module: nn.Module | None, prefix: str) -> Weights:
    if module is None:
        return {}
    parameters = dict(module.named_parameters(prefix, remove_duplicate=False))
    buffers = dict(module.named_buffers(prefix, remove_duplicate=False))
    return {name: tensor.detach().numpy() for name, tensor in {**parameters, **buffers}.items()}
